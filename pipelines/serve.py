"""Serve a trained judge: `python pipelines/serve.py --model FOLDER`, then POST pairs to /judge.

The endpoint runs in the foreground until Ctrl-C. It listens on this machine's loopback address, or with API keys on
any other (`--host`). It joins the Ray cluster of RAY_ADDRESS, or starts one of its own. `gavel.json` in the judge's
folder decides prompt format, dtype and lengths; for a folder without it the configuration does.

On a cluster of its own, Serve's commands do the same: `serve run pipelines.serve:app model=FOLDER`, or
`serve deploy cluster/serve.yaml`.
"""

from __future__ import annotations

import argparse
import copy
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError
from ray import serve
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from actors.card import JudgeCard
from actors.config import ServeConfig
from actors.judge import judge_app
from actors.serving.protection import ENVIRONMENT, ApiKeys, KeysError
from evals.synthetic import SyntheticTask
from pipelines import hosting
from pipelines.config import RunConfig, as_yaml, load
from pipelines.following import Follower
from pipelines.hosting import ServeError

_LOOK_EVERY_S = 2.0
_OF_THE_CLUSTER = {"host", "port", "timeout_s", "ssl_certfile", "ssl_keyfile", "proxy"}
"""Settings that Serve's own configuration decides where its commands serve the judge."""

_console = Console(highlight=False)


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted, or try the endpoint once. Returns the exit status."""
    config, options = _arguments(argv)
    try:
        if options.trial:
            os.environ.pop(ENVIRONMENT, None)
            config.serve = _for_a_trial(config.serve)
        folder, card = judge_folder(config)
        hosting.check(config.serve)
        if options.follow and not options.follow.is_dir():
            raise ServeError(f"--follow {options.follow}: there is no such folder")
        if options.dry_run:
            _console.print(as_yaml(config), f"# a replica needs {hosting.needs(config)}", markup=False)
            return 0
        with hosting.ray_for(config), endpoint(config, folder, card) as url:
            if options.trial:
                return _try(url, config)
            _console.print(_welcome(url, folder, card, config.serve), soft_wrap=True)
            if options.follow:
                _follow(options.follow, config, folder, card)
            signal.pause()
    except (ServeError, KeysError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _console.print("stopped")
    return 0


def app(arguments: dict[str, Any]) -> serve.Application:
    """The judge for `serve run` and `serve deploy`: `arguments` are parts of the configuration, `model` among them.

    A part may be a mapping or dotted: `{"model": FOLDER, "serve": {"replicas": 2}}` or `{"serve.replicas": "2"}`.
    Raises ServeError or KeysError.
    """
    nested: dict[str, Any] = {}
    for name, value in sorted(arguments.items(), key=lambda argument: argument[0].count(".")):
        *parts, last = name.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = copy.deepcopy(value)
    if misplaced := sorted(_OF_THE_CLUSTER & (nested.get("serve") or {}).keys()):
        raise ServeError(f"serve.{misplaced[0]}: belongs to http_options of Serve's own configuration")
    try:
        config = RunConfig(**nested)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r:.80})" for e in error.errors()]
        raise ServeError(f"the arguments of the judge's application are not valid: {'; '.join(problems)}") from error
    folder, card = judge_folder(config)
    return judge_app(folder, card, config.rollout, config.serve, config.placement.device)


def _arguments(argv: Sequence[str]) -> tuple[RunConfig, argparse.Namespace]:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    own.add_argument("--host", help="short for --serve.host; other machines are answered with API keys only")
    own.add_argument("--port", help="short for --serve.port; 0 takes a free one")
    own.add_argument("--api-keys", metavar="FILE", help="short for --serve.api-keys; also GAVEL_API_KEYS=KEY,KEY,...")
    own.add_argument(
        "--follow", type=Path, metavar="FOLDER", help="swap in each judge with a higher version that appears in FOLDER"
    )
    own.add_argument("--try", dest="trial", action="store_true", help="judge one held-out pair on a free port and end")
    options, rest = own.parse_known_args(argv)
    short = {"host": options.host, "port": options.port, "api_keys": options.api_keys}
    dotted = [f"--serve.{name}={value}" for name, value in short.items() if value is not None]
    config, others = load([*rest, *dotted], f"{__doc__}\n{own.format_help()}")
    options.dry_run = others.dry_run
    return config, options


def judge_folder(config: RunConfig) -> tuple[Path, JudgeCard]:
    """The folder of the judge to serve, and its card: the configuration's where it has none. Raises ServeError."""
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
def endpoint(config: RunConfig, folder: Path, card: JudgeCard) -> Iterator[str]:
    """The URL of the running endpoint, with a word in the terminal while it starts and stops. See `hosting`."""
    running = ExitStack()
    with _console.status(f"starting the judge in {folder}"):
        url = running.enter_context(hosting.endpoint(config, folder, card))
    try:
        yield url
    finally:
        with _console.status("stopping"):
            running.close()


def _welcome(url: str, folder: Path, card: JudgeCard, settings: ServeConfig) -> Text:
    body = '{"prompt": "Compute 3+4-2.", "response_a": "5", "response_b": "6"}'
    headers = ["Content-Type: application/json"]
    if ApiKeys.load(settings.api_keys).digests:
        headers.append("Authorization: Bearer KEY")
    said = " ".join(f"-H {shlex.quote(header)}" for header in headers)
    trusted = f"--cacert {shlex.quote(str(settings.ssl_certfile))} " if settings.ssl_certfile else ""
    lines = [
        f"serving {folder} (version {card.version}, format {card.format}) at {url}; Ctrl-C stops",
        f"page: {url}/   documentation: {url}/docs",
        f"curl {trusted}{url}/judge {said} -d {shlex.quote(body)}",
    ]
    if settings.proxy == "haproxy":
        lines.append(
            f"Ray has HAProxy show its statistics on port {hosting.HAPROXY_STATISTICS} of every interface, without a "
            "key: keep it behind a firewall"
        )
    return Text("\n".join(lines))


def _follow(where: Path, config: RunConfig, folder: Path, card: JudgeCard) -> None:
    """Look for newer judges until interrupted."""
    last: dict[str, Any] = {}

    def swap(found: Path, version: int) -> str | None:
        nonlocal last
        checkpoint = {"checkpoint": str(found.resolve()), "version": version}
        hosting.run_app(config, folder, card, checkpoint)
        if (refused := hosting.refused(version)) is None:
            last = checkpoint
        else:
            hosting.run_app(config, folder, card, last)  # for replicas that start later
        return refused

    follower = Follower(where, folder, card, swap, lambda text: _console.print(Text(text), soft_wrap=True))
    while True:
        follower.look()
        time.sleep(_LOOK_EVERY_S)


def _for_a_trial(settings: ServeConfig) -> ServeConfig:
    """Where only this process is to ask: a free port of the loopback address, plain and without keys."""
    return settings.model_copy(
        update={"host": "127.0.0.1", "port": 0, "api_keys": None, "ssl_certfile": None, "ssl_keyfile": None}
    )


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
