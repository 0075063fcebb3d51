"""Fixtures that are dear: one Ray for the session, and the engines that tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a small random model; the same arguments give the same folder."""
    from actors.config import EmbeddedModelConfig
    from actors.embedded import make_embedded_model

    made: dict[tuple[bool, int], Path] = {}

    def make(tied: bool = True, seed: int = 0) -> Path:
        if (tied, seed) not in made:
            folder = tmp_path_factory.mktemp("model") / "model"
            make_embedded_model(folder, EmbeddedModelConfig(layers=2, tied=tied), seed)
            made[tied, seed] = folder
        return made[tied, seed]

    return make


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray of our own with more logical cores than the machine has; actors mostly wait for each other here."""
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
