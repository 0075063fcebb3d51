"""What stands between the network and the judge: API keys, the size of requests, and how many may be in progress.

All of it happens before a request is parsed. A refused request costs little, and nothing is held for it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.config import LimitsConfig
from actors.serving.metrics import Metrics
from evals.errors import ReadableError

ENVIRONMENT = "GAVEL_API_KEYS"
"""The environment variable with API keys, separated by commas or white space."""

_OPEN = ("/", "/health", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect")
_OPEN_BELOW = "/static/"
_SHORTEST_KEY = 16


class KeysError(ReadableError, ValueError):
    """API keys that cannot be used; the message names file and line, and never a key."""


@dataclass(frozen=True)
class ApiKeys:
    """The digests of the keys that may ask, each with the time at which it expires. Without any, everybody may."""

    digests: tuple[tuple[str, datetime | None], ...] = ()

    @classmethod
    def load(cls, file: Path | None) -> ApiKeys:
        """The keys of a file, one a line, and those of the environment variable.

        A key in the file may be followed by the date or time at which it expires (`KEY 2027-01-31`); empty lines and
        those that begin with `#` are left out. Raises KeysError.
        """
        keys: list[tuple[str, datetime | None]] = []
        if file is not None:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise KeysError(f"{file}: API keys cannot be read ({error})") from error
            for number, line in enumerate(lines, start=1):
                if (words := line.split()) and not words[0].startswith("#"):
                    keys.append(_key(words, f"{file}, line {number}"))
            if not keys:
                raise KeysError(f"{file}: holds no API key; write one a line")
        named = os.environ.get(ENVIRONMENT, "").replace(",", " ").split()
        keys += [_key([key], ENVIRONMENT) for key in named]
        return cls(tuple((_digest(key), expires) for key, expires in keys))

    def find(self, authorization: str) -> tuple[str | None, datetime | None]:
        """The digest of the key in an Authorization header, if it is one of these, and when it expires.

        Compares with every key in the same time, whichever it is.
        """
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        found, expires = None, None
        for known, until in self.digests:
            if hmac.compare_digest(known, digest) and scheme.lower() == "bearer":
                found, expires = known, until
        return found, expires


def _key(words: Sequence[str], where: str) -> tuple[str, datetime | None]:
    if len(words[0]) < _SHORTEST_KEY:
        raise KeysError(f"{where}: an API key needs at least {_SHORTEST_KEY} characters")
    if len(words) > 2:
        raise KeysError(f"{where}: a line holds one API key, and if it expires the date of that, and nothing else")
    if len(words) == 1:
        return words[0], None
    try:
        expires = datetime.fromisoformat(words[1])
    except ValueError as error:
        raise KeysError(f"{where}: the second word must be the date at which the key expires, as 2027-01-31") from error
    return words[0], expires if expires.tzinfo else expires.replace(tzinfo=UTC)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Guard:
    """ASGI middleware that lets a request through to `app`, or answers why not.

    `wait_s` tells for how long a judgement that comes now would wait for its turn.
    """

    def __init__(
        self, app: ASGIApp, keys: ApiKeys, limits: LimitsConfig, metrics: Metrics, wait_s: Callable[[], float]
    ):
        self._app = app
        self._keys = keys
        self._limits = limits
        self._metrics = metrics
        self._wait_s = wait_s
        self._progress: Counter[str] = Counter()
        self._bytes = 0
        self._seconds = 1.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", "")) or "/"
        if scope["type"] != "http" or path in _OPEN or path.startswith(_OPEN_BELOW):
            await self._app(scope, receive, send)
            return
        with self._metrics.request(scope, send) as measured:
            who = ""
            if self._keys.digests:
                given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
                found, expires = self._keys.find(given)
                if problem := _unknown(given, found, expires):
                    await _answer(measured, 401, problem, {"www-authenticate": "Bearer"})
                    return
                who = found or ""
            if full := self._full(who):
                await _answer(measured, *full, {"retry-after": str(self._retry_after())})
                return
            await self._admitted(who, scope, receive, measured)

    def _full(self, who: str) -> tuple[int, str] | None:
        limits = self._limits
        if self._keys.digests and self._progress[who] >= limits.requests_per_key:
            return 429, f"{limits.requests_per_key} requests with this API key are in progress; wait for some of them"
        if self._progress.total() >= limits.requests:
            return 503, f"{limits.requests} requests are in progress, as many as the server takes; try again"
        if self._bytes >= limits.waiting_mib * 2**20:
            return (
                503,
                f"requests of {limits.waiting_mib:g} MiB are in progress, as much as the server takes; try again",
            )
        if (wait := self._wait_s()) > limits.wait_s:
            return 503, f"A judgement waits {wait:.0f} s here, more than the {limits.wait_s:g} s allowed; try again"
        return None

    def _retry_after(self) -> int:
        """Seconds in which about a quarter of what is in progress will have been answered."""
        return max(1, min(30, math.ceil(self._seconds / 4)))

    async def _admitted(self, who: str, scope: Scope, receive: Receive, send: Send) -> None:
        begin = monotonic()
        self._progress[who] += 1
        size = 0
        try:
            body = await self._body(scope, receive)
            if body is None:
                limit = f"{self._limits.body_mib:g} MiB"
                await _answer(send, 413, f"The request is larger than {limit}; send fewer or shorter texts", {})
                return
            size = len(body)
            self._bytes += size
            await self._app(scope, _replay(body, receive), send)
            self._seconds += 0.05 * (monotonic() - begin - self._seconds)
        finally:
            self._bytes -= size
            self._progress[who] -= 1
            if not self._progress[who]:
                del self._progress[who]

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body of a request; None where it is over the limit."""
        most = int(self._limits.body_mib * 2**20)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(parts)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                return None
            if not message.get("more_body"):
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receives the body that was read already, then whatever else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _unknown(given: str, found: str | None, expires: datetime | None) -> str | None:
    if not given:
        return "This server wants an API key; send it as Authorization: Bearer KEY"
    if found is None:
        return "This API key is not known here; check it, and send it as Authorization: Bearer KEY"
    if expires is not None and expires <= datetime.now(UTC):
        return f"This API key expired on {expires:%Y-%m-%d %H:%M %Z}; ask for a new one"
    return None


async def _answer(send: Send, status: int, detail: str, headers: dict[str, str]) -> None:
    body = json.dumps({"detail": detail}).encode()
    given = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(name.encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
