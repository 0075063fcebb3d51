"""Serve a trained judge: `python pipelines/serve.py --model FOLDER`, then POST pairs to /judge.

The endpoint runs in the foreground until Ctrl-C. It listens on this machine's loopback address unless `--host` says
otherwise, and asks nobody who they are. It joins the Ray cluster of RAY_ADDRESS, or starts one of its own.
`gavel.json` in the judge's folder decides prompt format, dtype and lengths; for a folder without it the
configuration does.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import ray
from ray import serve
from ray.exceptions import RayError
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from actors.judge import JudgeCard, judge_app, replica_resources
from evals.synthetic import SyntheticTask
from pipelines.config import RunConfig, as_yaml, load

APP = "judge"

_console = Console(highlight=False)


class ServeError(RuntimeError):
    """The judge cannot be served as asked; the message says what to change."""


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted, or try the endpoint once. Returns the exit status."""
    config, options = _arguments(argv)
    try:
        if options.trial:
            config.serve.port = 0
        folder, card = _judge_folder(config)
        if options.dry_run:
            _console.print(as_yaml(config), f"# a replica needs {_needs(config)}", markup=False)
            return 0
        with _ray(config), _endpoint(config, folder, card) as url:
            if options.trial:
                return _try(url, config)
            _console.print(_welcome(url, folder, card), soft_wrap=True)
            signal.pause()
    except ServeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _console.print("stopped")
    return 0


def _arguments(argv: Sequence[str]) -> tuple[RunConfig, argparse.Namespace]:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    own.add_argument("--host", help="short for --serve.host")
    own.add_argument("--port", help="short for --serve.port; 0 takes a free one")
    own.add_argument("--try", dest="trial", action="store_true", help="judge one held-out pair on a free port and end")
    options, rest = own.parse_known_args(argv)
    dotted = [f"--serve.{name}={value}" for name in ("host", "port") if (value := getattr(options, name)) is not None]
    config, options.rest = load([*rest, *dotted], f"{__doc__}\n{own.format_help()}")
    options.dry_run = options.rest.dry_run
    return config, options


def _judge_folder(config: RunConfig) -> tuple[Path, JudgeCard]:
    if not config.model:
        raise ServeError("name the judge to serve: --model FOLDER")
    folder = Path(config.model)
    if not folder.is_dir():
        raise ServeError(f"--model {folder}: there is no such folder")
    needed = {"config.json": "the model's configuration", "tokenizer_config.json": "its tokenizer"}
    if lacking := [f"{name} ({what})" for name, what in needed.items() if not (folder / name).exists()]:
        raise ServeError(f"--model {folder}: not a Hugging Face model folder; it lacks {' and '.join(lacking)}")
    try:
        return folder, JudgeCard.load(folder) or JudgeCard(
            format=config.data.format,
            dtype=config.policy.dtype,
            max_model_len=config.rollout.max_model_len,
            max_new_tokens=config.rollout.max_new_tokens,
        )
    except ValueError as error:
        raise ServeError(str(error)) from error


@contextmanager
def _ray(config: RunConfig) -> Iterator[None]:
    """Ray, with its own and its workers' output in files alone. A cluster that was there before stays."""
    # A replica that is killed takes its engine's process with it. Read by the cluster that starts here.
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")
    with warnings.catch_warnings(action="ignore"):
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "local"),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's handler would end the process at once
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        claim, offered = replica_resources(config.rollout, config.placement.device), ray.cluster_resources()
        if any(offered.get(kind, 0) < amount * config.serve.replicas for kind, amount in claim.items()):
            has = ", ".join(f"{offered.get(kind, 0):g} {kind}" for kind in claim)
            raise ServeError(
                f"serve.replicas={config.serve.replicas}: each needs {_needs(config)}, and the cluster has {has} in all"
            )
        yield
    finally:
        ray.shutdown()


@contextmanager
def _endpoint(config: RunConfig, folder: Path, card: JudgeCard) -> Iterator[str]:
    """The running endpoint's URL. The judge is taken down after the block, and Serve where it was started for it."""
    settings = config.serve
    http = {
        "host": settings.host,
        "port": _free_port(settings.host, settings.port),
        "request_timeout_s": settings.timeout_s,
    }
    url = f"http://{settings.host}:{http['port']}"
    was_running = bool(serve.status().proxies)
    try:
        with _console.status(f"starting the judge in {folder}"):
            try:
                serve.start(proxy_location="HeadOnly", http_options=http)
                app = judge_app(folder, card, config.rollout, settings, config.placement.device)
                serve.run(app, name=APP, route_prefix="/")
            except (RuntimeError, RayError) as error:
                raise ServeError(f"the judge in {folder} did not start: {error}") from error
            _check_answers(url)
        yield url
    finally:
        with _console.status("stopping"):
            if was_running or "RAY_ADDRESS" not in os.environ:  # Serve goes with the cluster that was started for it
                serve.delete(APP)
            else:
                serve.shutdown()


def _free_port(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
            ) from error
        return probe.getsockname()[1]


def _check_answers(url: str) -> None:
    try:
        httpx.get(f"{url}/health", timeout=30).raise_for_status()
    except httpx.HTTPError as error:
        raise ServeError(
            f"nothing answers at {url} ({error}). Where Serve was running on the cluster before, it keeps its own "
            "address: give that one with --host and --port, or shut that Serve down"
        ) from error


def _welcome(url: str, folder: Path, card: JudgeCard) -> Text:
    body = '{"prompt": "Compute 3+4-2.", "response_a": "5", "response_b": "6"}'
    curl = f"curl {url}/judge -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    what = f"{folder} (version {card.version}, format {card.format})"
    return Text(f"serving {what} at {url}, documented at {url}/docs; Ctrl-C stops\n{curl}")


def _needs(config: RunConfig) -> str:
    claim = replica_resources(config.rollout, config.placement.device)
    return " + ".join(f"{amount:g} {kind}" for kind, amount in claim.items())


def _try(url: str, config: RunConfig) -> int:
    """Send one held-out pair of the synthetic task over HTTP and show what comes back."""
    pair = SyntheticTask(config.seed).pair("heldout", 0)
    request = {"conversation": pair.messages, "response_a": pair.response_a, "response_b": pair.response_b}
    begin = time.perf_counter()
    try:
        answer = httpx.post(f"{url}/judge", json=request, timeout=config.serve.timeout_s)
    except httpx.HTTPError as error:
        raise ServeError(f"POST {url}/judge failed: {error!r}") from error
    seconds = time.perf_counter() - begin
    if answer.status_code != httpx.codes.OK:
        raise ServeError(f"POST {url}/judge answered {answer.status_code}: {answer.text:.500}")
    if "verdict" not in (judged := answer.json()):
        raise ServeError(f"POST {url}/judge answered without a verdict: {answer.text:.500}")

    shown = Table.grid(padding=(0, 2))
    for name, value in (
        ("question", "\n".join(message["content"] for message in pair.messages)),
        ("response_a", pair.response_a),
        ("response_b", pair.response_b),
    ):
        shown.add_row(Text(name, "bold"), Text(value))
    _console.print(Panel(shown, title=f"POST {url}/judge", title_align="left"))
    for judgement in judged["judgements"]:
        title = f"order {judgement['order']}: verdict {judgement['verdict'] or 'none'}"
        _console.print(Panel(Text(judgement["text"]), title=title, title_align="left"))
    _console.print(
        f"verdict [bold]{judged['verdict'] or 'none'}[/] (gold is {pair.gold}) from {judged['model']}, "
        f"version {judged['version']}, in {1000 * seconds:.0f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
