"""Single samples become groups: a judge of pairs needs opponents, and most trainers ask for one sample at a time.

Samples of one prompt that arrive within a window, or until a declared group size is reached, are compared with each
other once, and each gets its own share of wins. A sample that stays alone meets its anchor, or members of its
prompt's earlier groups. What happened is in the answer, and every wait is bounded.

One process gathers the samples of all replicas, so that no group is split between them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from actors.config import GroupsConfig
from actors.serving.placing import Asked, Placing, Served, shuffled
from actors.serving.wire import AnyText, Question, RankRequest, RankResponse, Text
from evals.errors import ReadableError

MOST_MEMBERS = 64
"""A group that has so many members closes."""

LONGEST_WINDOW_S = 60.0
"""The longest window that a sample may ask for."""

How = Literal["group", "late", "anchor", "alone"]


class UnjudgedError(ReadableError, RuntimeError):
    """A sample that gets no score now, for want of room or of time. Asking again later can help: HTTP's 503."""


class AnchorError(ReadableError, ValueError):
    """A file of anchors that cannot be used; the message names file and line."""


class GroupSample(Question):
    """One response of a policy, to be judged against others to the same question."""

    response: AnyText = Field(
        description="A blank one (a policy may answer nothing) loses against any other, and the judge is not asked"
    )
    group: AnyText | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Name of the group. Samples with different names never meet, nor those with and without one. With "
        "a name, the same response sent again gets the same answer (a retry); without, it is a sample of its own",
    )
    group_size: int | None = Field(
        None, ge=2, le=MOST_MEMBERS, description="Judge as soon as so many are there; the largest that a member says"
    )
    window_s: float | None = Field(
        None,
        ge=0,
        le=LONGEST_WINDOW_S,
        description="How long to wait for others; the first member of a group decides",
    )
    anchor: Text | None = Field(None, description="A response to be compared with where no other sample comes")


class Placed(BaseModel):
    """The place of a sample in its group."""

    score: float = Field(
        description="Share of its comparisons that the response won, 0 to 1; a tie, an identical response and a "
        "comparison without a verdict are half a win. In a group compared in a circle, the response's two neighbours "
        "stand for all others"
    )
    how: How = Field(
        description="`group`: compared with the members of its group; `anchor`: stayed alone, compared with an anchor; "
        "`late`: stayed alone, compared with members of earlier groups of its prompt; `alone`: with nothing"
    )
    members: int = Field(description="Samples that were judged together, with this one")
    group_size: int | None = Field(description="As declared; more than `members` where the window ended first")
    window_s: float = Field(description="The window of the group")
    waited_s: float = Field(description="Seconds that this sample waited for others; 0 for a remembered answer")
    comparisons: int = Field(description="Comparisons of this response that the judge was asked for")
    no_verdict: int = Field(description="How many of them ended without a verdict")
    neutral: bool = Field(description="Whether the score says nothing: there was no opponent, or never a verdict")
    model: str
    version: int = Field(description="Weight version that judged")


class _Anchor(Question):
    anchor: Text


@dataclass(eq=False)
class _Group:
    """Samples of one prompt, by loop time. `outcome` has each response's place, or why it has none."""

    key: bytes
    opened: float
    window_s: float
    outcome: asyncio.Future[dict[str, Placed | RequestValidationError]]
    members: list[GroupSample] = field(default_factory=list)
    waiting: int = 0
    closes: asyncio.TimerHandle | None = None
    closed: float = 0.0
    judging: asyncio.Task[None] | None = None

    @property
    def size(self) -> int | None:
        """The largest size that a member declares."""
        return max((sample.group_size or 0 for sample in self.members), default=0) or None


@dataclass
class _Past:
    """What is remembered of a prompt: responses, newest first, and under a group's name who has their outcome."""

    earlier: list[str]
    named: dict[str, _Group]
    forget: float

    @property
    def characters(self) -> int:
        return sum(map(len, {*self.earlier, *self.named}))


class Gathering:
    """Gathers samples of one prompt, has them judged and gives each its place. Lives in one event loop.

    Raises AnchorError where the file of anchors cannot be used.
    """

    def __init__(self, config: GroupsConfig, judge: Asked):
        self._config = config
        self._placing = Placing(judge, config.most_pairs)
        self._anchors = read_anchors(config.anchors) if config.anchors else {}
        self._open: dict[bytes, _Group] = {}
        self._judging: set[asyncio.Task[None]] = set()
        self._past: OrderedDict[bytes, _Past] = OrderedDict()
        self._characters = 0

    async def join(self, sample: GroupSample) -> Placed:
        """Wait for the sample's group to be judged; the sample's place in it. Cancelled, the sample leaves its group.

        Raises UnjudgedError where there is no room or no time, RequestValidationError where the sample is too long to
        be judged, and whatever judging raised, for every member.
        """
        joined = asyncio.get_running_loop().time()
        key = _key(sample, sample.group)
        self._forget(joined)
        if group := self._repeated(key, sample):
            return await self._place(group, sample, joined)
        group = self._open.get(key) or self._new(key, sample)
        group.members.append(sample)
        if len(group.members) >= (group.size or MOST_MEMBERS):
            self._close(group)
        try:
            return await self._place(group, sample, joined)
        except asyncio.CancelledError:
            if self._open.get(key) is group:
                group.members.remove(sample)
            raise

    def _repeated(self, key: bytes, sample: GroupSample) -> _Group | None:
        """The closed group that has this sample already: somebody asks again."""
        past = self._past.get(key)
        group = past.named.get(sample.response) if past else None
        failed = group and group.outcome.done() and (group.outcome.cancelled() or group.outcome.exception())
        return None if failed else group

    def _new(self, key: bytes, sample: GroupSample) -> _Group:
        config, loop = self._config, asyncio.get_running_loop()
        if len(self._open) + len(self._judging) >= config.open_groups:
            problem = f"All {config.open_groups} groups that may wait or be judged at once are taken"
            raise UnjudgedError(f"{problem}; ask again later, or raise groups.open_groups")
        window = config.window_s if sample.window_s is None else sample.window_s
        group = _Group(key, loop.time(), window, loop.create_future())
        group.closes = loop.call_later(window, self._close, group)
        self._open[key] = group
        return group

    async def _place(self, group: _Group, sample: GroupSample, joined: float) -> Placed:
        """Wait with the others. When nobody waits any more, nothing is judged."""
        group.waiting += 1
        try:
            found = (await asyncio.shield(group.outcome))[sample.response]
        finally:
            group.waiting -= 1
            if not group.waiting and not group.outcome.done():
                self._abandon(group)
        if isinstance(found, RequestValidationError):
            raise found
        return found.model_copy(update={"waited_s": max(0.0, group.closed - joined)})

    def _abandon(self, group: _Group) -> None:
        group.outcome.cancel()
        if group.judging:
            group.judging.cancel()
        else:
            self._leave_open(group)

    def _leave_open(self, group: _Group) -> None:
        del self._open[group.key]
        if group.closes:
            group.closes.cancel()

    def _close(self, group: _Group) -> None:
        """From here on the group takes nobody in."""
        self._leave_open(group)
        group.closed = asyncio.get_running_loop().time()
        self._forget(group.closed)
        past = self._past.get(group.key)
        earlier = past.earlier if past else []
        self._remember(group, earlier)
        group.judging = asyncio.create_task(self._run(group, earlier))
        self._judging.add(group.judging)
        group.judging.add_done_callback(self._judging.discard)

    def _remember(self, group: _Group, earlier: Sequence[str]) -> None:
        """Keep some of the group's members as opponents of late samples, and the outcome for who asks again."""
        old = self._past.pop(group.key, None)
        named = {**old.named} if old else {}
        if group.members[0].group is not None:
            named |= {sample.response: group for sample in group.members}
        new = shuffled(sample.response for sample in group.members)
        kept = list(dict.fromkeys([*new, *earlier]))[: self._config.opponents]
        past = self._past[group.key] = _Past(kept, named, group.closed + self._config.ttl_s)
        self._characters += past.characters - (old.characters if old else 0)
        self._forget(group.closed)

    def _forget(self, now: float) -> None:
        """Keep what is remembered within its bounds, and nothing that is too old."""
        while self._past:
            oldest = next(iter(self._past.values()))
            over = len(self._past) > self._config.prompts or self._characters > self._config.characters
            if not over and oldest.forget > now:
                break
            self._characters -= self._past.popitem(last=False)[1].characters

    async def _run(self, group: _Group, earlier: Sequence[str]) -> None:
        """Judge a closed group, once; whatever comes of it goes to every member."""
        limit = self._config.timeout_s
        try:
            async with asyncio.timeout_at(group.opened + limit):
                group.outcome.set_result(await self._judged(group, earlier))
        except TimeoutError:
            problem = f"A group of {len(group.members)} was not judged within {limit:g} s of its first sample"
            group.outcome.set_exception(UnjudgedError(f"{problem}; ask again later, or raise groups.timeout_s"))
        except Exception as error:
            group.outcome.set_exception(error)
        finally:
            group.members.clear()  # the outcome may be remembered for long

    async def _judged(self, group: _Group, earlier: Sequence[str]) -> dict[str, Placed | RequestValidationError]:
        """Each response's place. Where responses are too long to be judged, the longest are refused, one by one."""
        counts = Counter(sample.response for sample in group.members)
        refused: dict[str, Placed | RequestValidationError] = {}
        while counts:
            try:
                return refused | await self._placed(group, counts, earlier)
            except RequestValidationError as error:
                longest = max(sorted(counts), key=len)
                refused[longest] = _too_long(error)
                del counts[longest]
        return refused

    async def _placed(self, group: _Group, counts: Counter[str], earlier: Sequence[str]) -> dict[str, Placed]:
        how: How = "group"
        if counts.total() > 1:
            found, (model, version) = await self._placing.group(group.members[0], counts)
        else:
            (response,) = counts
            how, opponents = self._opponents(group, response, earlier)
            standing, (model, version) = await self._placing.lone(group.members[0], response, opponents)
            found = {response: standing}
        return {
            response: Placed(
                how=how,
                members=counts.total(),
                group_size=group.size,
                window_s=group.window_s,
                waited_s=0.0,
                model=model,
                version=version,
                **asdict(standing),
            )
            for response, standing in found.items()
        }

    def _opponents(self, group: _Group, response: str, earlier: Sequence[str]) -> tuple[How, list[str]]:
        """Whom a lone response is compared with. Itself from before is no opponent: it may be a retry."""
        anchor = next(sample.anchor for sample in group.members if sample.response == response)
        if anchor := anchor or self._anchors.get(_key(group.members[0], None)):
            return "anchor", [anchor]
        others = [one for one in earlier if one != response]
        return ("late", others) if others else ("alone", [])


def _too_long(error: RequestValidationError) -> RequestValidationError:
    """The refusal of a ranking as that of one of its responses."""
    places = [tuple("response" if part == "responses" else part for part in e["loc"]) for e in error.errors()]
    return RequestValidationError([e | {"loc": loc} for e, loc in zip(error.errors(), places, strict=True)])


def read_anchors(path: Path) -> dict[bytes, str]:
    """Anchors by the key of their question. Raises AnchorError naming the line that cannot be used."""
    anchors: dict[bytes, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnchorError(f"{path}: the file of anchors cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _Anchor.model_validate_json(line)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'line'}: {e['msg']}" for e in error.errors())
            raise AnchorError(f"{path}, line {number}: {problems}") from error
        key = _key(row, None)
        if key in anchors:
            raise AnchorError(f"{path}, line {number}: the prompt already has an anchor; keep one of them")
        anchors[key] = row.anchor
    return anchors


def _key(question: Question, group: str | None) -> bytes:
    """Who has the same one may meet."""
    return sha256(json.dumps([group, question.messages()]).encode()).digest()


async def answered(response: Any) -> Any:
    """What a call through a Serve handle returns or raises; cancelled here, it is cancelled there.

    Raises UnjudgedError where the replicas that could be asked are full or have died.
    """
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except RayTaskError as error:
        raise error.cause from None
    except BackPressureError as error:
        raise UnjudgedError("The judge has as many requests as it takes; ask again later") from error
    except (RayActorError, DeploymentUnavailableError) as error:
        raise UnjudgedError("The replica that was asked has stopped and is being replaced; ask again") from error


class _Judge:
    """The judge of the application that this process belongs to."""

    async def rank(self, request: RankRequest) -> RankResponse:
        return await answered(self._handle().rank.remote(request))

    async def serving(self) -> Served:
        return await answered(self._handle().serving.remote())

    def _handle(self) -> Any:
        return serve.get_deployment_handle("Judge", serve.get_replica_context().app_name)


class GroupsReplica(Gathering):
    """The one process that gathers the samples of an application, and asks its deployment named Judge."""

    def __init__(self, config: GroupsConfig):
        super().__init__(config, _Judge())


class GroupsClient:
    """The deployment of groups, for those who ask it."""

    def __init__(self, handle: Any):
        self._handle = handle

    async def join(self, sample: GroupSample) -> Placed:
        """See `Gathering.join`."""
        return await answered(self._handle.join.remote(sample))


Groups = serve.deployment(
    GroupsReplica, name="Groups", num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0}
)
