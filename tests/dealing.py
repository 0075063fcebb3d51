"""An actor that has a share for each rank, as a collector has them."""

from __future__ import annotations

from collections.abc import Sequence

import ray
from ray.actor import ActorHandle

from actors.shares import Share


def dealer(shares: Sequence[Share]) -> ActorHandle:
    """Start it. Its class is made here so that it travels by value: actors cannot import test modules."""

    class Dealer:
        def __init__(self, shares: Sequence[Share]):
            self._shares = shares

        def share(self, step: int, rank: int) -> Share:
            return self._shares[rank]

    return ray.remote(Dealer).options(num_cpus=0).remote(shares)
