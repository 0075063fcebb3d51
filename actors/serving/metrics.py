"""What one replica counts: twice, for GET /metrics of the endpoint and for Ray's own exporter.

GET /metrics answers for the replica that is asked, which is all of them where there is one. Ray's exporter on every
node has the counters of all replicas, as `ray_gavel_...`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from ray.util import metrics as ray_metrics
from starlette.types import Message, Scope, Send

from evals.verdicts import Order, Verdict

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class _Counter:
    """One counter, in the replica's registry and in Ray's."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: tuple[str, ...]):
        self._own = Counter(f"gavel_{name}", text, labels, registry=registry)
        self._rays = ray_metrics.Counter(f"gavel_{name}", text, labels)
        self._labels = labels

    def add(self, amount: float, *values: str) -> None:
        """Count `amount` more under the labels' values."""
        if amount:
            self._own.labels(*values).inc(amount)
            self._rays.inc(amount, dict(zip(self._labels, values, strict=True)))


class Metrics:
    """Counters of one replica. Every name begins with `gavel_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests answered", "route", "status")
        self._seconds = Histogram(
            "gavel_request_seconds", "Seconds a request took", ("route",), buckets=_SECONDS, registry=self.registry
        )
        self._progress = Gauge("gavel_requests_in_progress", "Requests in progress", registry=self.registry)
        self._running = Gauge("gavel_judgements_in_progress", "Judgements in progress", registry=self.registry)
        self._tokens = self._counter("tokens", "Tokens of prompts and judgements", "kind")
        self._verdicts = self._counter("verdicts", "Judgements by which of the shown responses they prefer", "verdict")
        self._samples = self._counter("samples", "Single samples, by what they were judged against", "how")
        self._version = Gauge("gavel_weight_version", "Weight version that is served", registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> _Counter:
        return _Counter(self.registry, name, text, labels)

    @contextmanager
    def request(self, scope: Scope, send: Send) -> Iterator[Send]:
        """Count one request; the answer is to be sent through what it gives."""
        status = 499  # the client went away before there was an answer
        begin = monotonic()

        async def measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._progress.inc()
        try:
            yield measured
        finally:
            self._progress.dec()
            route = getattr(scope.get("route"), "path", None) or ("none" if status == 404 else "refused")
            self._requests.add(1, route, str(status))
            self._seconds.labels(route).observe(monotonic() - begin)

    def tokens(self, prompt: int, completion: int) -> None:
        """Count the tokens of a judgement."""
        self._tokens.add(prompt, "prompt")
        self._tokens.add(completion, "completion")

    def verdict(self, order: Order, verdict: Verdict) -> None:
        """Count the verdict of a judgement by the place of what it prefers, the share of `none` being no verdict."""
        first = "a" if order == "ab" else "b"
        self._verdicts.add(1, {first: "first", "tie": "tie", None: "none"}.get(verdict, "second"))

    def sample(self, how: str) -> None:
        """Count one single sample by what became of it."""
        self._samples.add(1, how)

    def text(self, running: int, version: int) -> bytes:
        """All of them as Prometheus reads them."""
        self._running.set(running)
        self._version.set(version)
        return generate_latest(self.registry)
