"""What the routes of one replica work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from actors.card import JudgeCard
from actors.config import LimitsConfig
from actors.serving.engine import JudgeEngine
from actors.serving.groups import MOST_MEMBERS, GroupSample, Placed
from actors.serving.judging import Judging
from actors.serving.metrics import Metrics
from actors.serving.placing import Served
from actors.serving.protection import ApiKeys
from actors.serving.wire import RankRequest, RankResponse


class Groups(Protocol):
    """Where single samples meet the others of their group."""

    async def join(self, sample: GroupSample) -> Placed:
        """Wait for the others, and for what the judge says."""


@dataclass(frozen=True)
class Service:
    """One replica's engine and what stands around it. `name` is the model's.

    Groups of more pairs than `most_pairs` are compared in a circle. To those who place groups it is the judge.
    """

    name: str
    engine: JudgeEngine
    judging: Judging
    groups: Groups
    most_pairs: int
    limits: LimitsConfig
    keys: ApiKeys
    metrics: Metrics

    @property
    def card(self) -> JudgeCard:
        """The card of the weights that are being served."""
        return self.engine.card

    async def rank(self, request: RankRequest) -> RankResponse:
        """Rank the members of a group, which may be more than one request may send."""
        return await self.judging.rank(request, most=MOST_MEMBERS)

    async def serving(self) -> Served:
        """Name of the model and its weight version."""
        return self.name, self.engine.version


_here: list[Service] = []


def serve_here(served: Service) -> None:
    """Make it the service of this process, before the application is built."""
    _here[:] = [served]


def service() -> Service:
    """The service of this process."""
    return _here[0]


async def the_service() -> Service:
    """The service of this process as a FastAPI dependency; an ordinary function would be called in another thread."""
    return service()
