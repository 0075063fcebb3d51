"""Ray and Ray Serve around a judge: where it listens, through which proxy, for whom, and in which cluster."""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import signal
import socket
import ssl
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from ray.exceptions import RayError

from actors.card import JudgeCard
from actors.config import ServeConfig
from actors.judge import judge_app, replica_resources
from actors.serving.protection import ENVIRONMENT, ApiKeys
from actors.serving.proxy import WAIT_S
from evals.errors import ReadableError
from pipelines.config import RunConfig

APP = "judge"

HAPROXY_STATISTICS = 8404
"""Ray 2.55 has HAProxy publish its statistics on this port of every interface, and no option for it."""

SERVE_ENVIRONMENT = {
    # A replica that is killed takes its engine's process with it.
    "RAY_process_group_cleanup_enabled": "1",
    # One event loop a replica, and gRPC between proxy and replica: a third more requests a second. Replicas that
    # listen by themselves (direct ingress) would go with it, on ports beside the one that was asked for.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "actors.serving.proxy:middlewares",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # how soon a proxy that died is replaced
}
"""Of the Ray that a judge is served on."""


class ServeError(ReadableError, RuntimeError):
    """The judge cannot be served as asked; the message says what to change."""


def check(settings: ServeConfig) -> None:
    """Everything about the endpoint that can be wrong before anything is started. Raises ServeError or KeysError."""
    keys = ApiKeys.load(settings.api_keys)
    if not keys.digests and not _is_loopback(settings.host):
        raise ServeError(
            f"--host {settings.host}: other machines could ask the judge, and no API key is asked for. Name a file of "
            f"keys with --api-keys, set {ENVIRONMENT}, or listen on 127.0.0.1"
        )
    if settings.ssl_certfile and settings.ssl_keyfile:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password=lambda: "")
        except (OSError, ssl.SSLError, ValueError) as error:
            files = f"serve.ssl_certfile={settings.ssl_certfile}, serve.ssl_keyfile={settings.ssl_keyfile}"
            raise ServeError(f"{files}: not a certificate and its key without a password, in PEM ({error})") from error
    if settings.proxy == "haproxy":
        _check_haproxy(settings)


def _check_haproxy(settings: ServeConfig) -> None:
    if lacking := [program for program in ("haproxy", "socat") if shutil.which(program) is None]:
        raise ServeError(f"serve.proxy=haproxy needs {' and '.join(lacking)} on PATH; install it, or take proxy=python")
    if "RAY_ADDRESS" in os.environ:
        raise ServeError(
            "serve.proxy=haproxy is for a Ray that is started here; the cluster of RAY_ADDRESS has chosen its proxy "
            "with RAY_SERVE_ENABLE_HA_PROXY when it was started"
        )
    if settings.host not in ("127.0.0.1", "localhost", "0.0.0.0"):
        raise ServeError(f"serve.proxy=haproxy can listen on 127.0.0.1 or 0.0.0.0 alone, not on {settings.host}")
    with _bound("0.0.0.0", HAPROXY_STATISTICS, "serve.proxy=haproxy: Ray has it publish statistics there"):
        pass


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def ray_for(config: RunConfig) -> Iterator[None]:
    """Ray, with its own and its workers' output in files alone. A cluster that was there before stays.

    One that is started here serves as fast as it can; what the environment says of RAY_SERVE_... stands above that.
    Raises ServeError where the port is taken or the cluster is too small for the replicas.
    """
    with _bound(config.serve.host, config.serve.port):  # before half a minute is spent on starting things
        pass
    wanted, folder = SERVE_ENVIRONMENT | {WAIT_S: str(config.serve.limits.wait_s)}, None
    if config.serve.proxy == "haproxy":
        folder = Path(tempfile.mkdtemp(prefix="gavel-serve-"))
        wanted |= _haproxy(folder)
    try:
        with warnings.catch_warnings(action="ignore"), _environment(wanted):
            ray.init(
                address=os.environ.get("RAY_ADDRESS", "local"),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's handler would end the process at once
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        claim, offered = replica_resources(config.rollout, config.placement.device), ray.cluster_resources()
        if any(offered.get(kind, 0) < amount * config.serve.replicas for kind, amount in claim.items()):
            has = ", ".join(f"{offered.get(kind, 0):g} {kind}" for kind in claim)
            raise ServeError(
                f"serve.replicas={config.serve.replicas}: each needs {needs(config)}, and the cluster has {has} in all"
            )
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _haproxy(folder: Path) -> dict[str, str]:
    """HAProxy with its files in a folder of this run: by default all of a machine share one."""
    with _bound("127.0.0.1", 0) as metrics:
        return {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_MAXCONN": "4000",  # each takes two of the file descriptors that a process may have
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
            "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",  # by then HAProxy sends a leaving replica nothing
        }


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """The environment of the processes that are started in the block: as wanted where nothing else is set, and
    without the API keys, which travel as digests alone."""
    before = dict(os.environ)
    os.environ.update(wanted | before)
    os.environ.pop(ENVIRONMENT, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def endpoint(config: RunConfig, folder: Path, card: JudgeCard) -> Iterator[str]:
    """The running endpoint's URL. The judge is taken down after the block, and Serve where it was started for it.

    Raises ServeError where it does not start.
    """
    settings = config.serve
    with _bound(settings.host, settings.port) as port:
        pass
    url = _url(settings, port)
    http: dict[str, Any] = {"host": settings.host, "port": port, "request_timeout_s": settings.timeout_s}
    if settings.ssl_certfile and settings.ssl_keyfile:
        http["ssl_keyfile"], http["ssl_certfile"] = str(settings.ssl_keyfile), str(settings.ssl_certfile)
    was_running = bool(serve.status().proxies)
    try:
        try:
            serve.start(proxy_location="HeadOnly", http_options=http)
            run_app(config, folder, card)
        except (RuntimeError, RayError) as error:
            raise ServeError(f"the judge in {folder} did not start: {error}") from error
        _check_answers(url)
        yield url
    finally:
        if was_running or "RAY_ADDRESS" not in os.environ:  # Serve goes with the cluster that was started for it
            serve.delete(APP)
        else:
            serve.shutdown()


def run_app(config: RunConfig, folder: Path, card: JudgeCard, checkpoint: dict[str, Any] | None = None) -> None:
    """Serve the judge, or `checkpoint` in its place: where only that has changed, replicas stay and swap weights."""
    app = judge_app(folder, card, config.rollout, config.serve, config.placement.device, checkpoint)
    serve.run(app, name=APP, route_prefix="/")


def refused(version: int) -> str | None:
    """Why the judge's replicas do not serve that version; None where they do."""
    _, serving = serve.get_app_handle(APP).serving.remote().result(timeout_s=60)
    return None if serving == version else "the engine could not load it; GET /version says why"


def needs(config: RunConfig) -> str:
    """What one replica claims of the cluster, in words."""
    claim = replica_resources(config.rollout, config.placement.device)
    return " + ".join(f"{amount:g} {kind}" for kind, amount in claim.items())


def _url(settings: ServeConfig, port: int) -> str:
    """Where this machine reaches the endpoint."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"{'https' if settings.ssl_certfile else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def _bound(host: str, port: int, what: str = "choose another --host or --port") -> Iterator[int]:
    """Holds a port to see that it is free; 0 finds one. Gives its number."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}; {what}") from error
        yield probe.getsockname()[1]


def _check_answers(url: str) -> None:
    """Whether it is there at all; whose certificate it has is for clients to check."""
    try:
        httpx.get(f"{url}/health", timeout=30, verify=False).raise_for_status()
    except httpx.HTTPError as error:
        raise ServeError(
            f"nothing answers at {url} ({error}). Where Serve was running on the cluster before, it keeps its own "
            "address: give that one with --host and --port, or shut that Serve down"
        ) from error
