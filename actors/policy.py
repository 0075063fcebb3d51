"""The trained model as the driver sees it: all ZeRO-3 ranks as one policy.

The driver says which step; what a rank trains on in it (`actors/shares.py`) the rank gets from the collector.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from actors import checkpoint
from actors.checkpoint import Checkpoint
from actors.config import LossConfig, OptimizerConfig, PolicyConfig, WeightsConfig
from actors.errors import PolicyError
from actors.placement import Placement
from actors.rank import PolicyRank
from actors.records import LogProbs
from actors.shares import plans

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from actors.rollout import RolloutPool


@dataclass
class PolicyGroup:
    """All ranks as one: each method calls every rank and waits for all, for `policy.timeout_s` at most."""

    policy: PolicyConfig
    model: str | Path
    ranks: list[ActorHandle] = field(default_factory=list)
    version: int = 0

    @classmethod
    def start(
        cls, placement: Placement, model: str | Path, policy: PolicyConfig, optimizer: OptimizerConfig, total_steps: int
    ) -> PolicyGroup:
        """Create the ranks and load the model, a folder or a hub name, every gathered tensor compared with its file."""
        group = cls(policy, model)
        device = placement.config.device
        group.ranks = [
            PolicyRank.options(**placement.rank(rank, policy.threads)).remote(rank, policy, device)
            for rank in range(policy.ranks)
        ]
        host, port = ray.get(group.ranks[0].address.remote(), timeout=policy.timeout_s)
        group._all("join", host, port)
        group.load(optimizer, total_steps)
        return group

    def load(self, optimizer: OptimizerConfig, total_steps: int) -> list[int]:
        """Load the model on every rank with a new optimizer; returns the number of tensors compared on each.

        From here on `policy.share_prompts` says whether prompts are shared, which depends on the model too.
        """
        compared = self._all("load", self.model, optimizer, total_steps)
        self.policy = self.policy.model_copy(update={"share_prompts": all(self._all("shares_prompts"))})
        return compared

    def compare_with(self, model: str | Path) -> list[int]:
        """Hold every parameter but adapters against a model's files; raises PolicyError naming those that differ."""
        return self._all("compare_with", model)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        refs = [getattr(rank, method).remote(*arguments) for rank in self.ranks]
        return ray.get(refs, timeout=self.policy.timeout_s)

    def connect_engines(self, pool: RolloutPool, engine_ranks: int, config: WeightsConfig) -> None:
        """Set up the weight transfer to every engine of the pool."""
        self._all("connect_engines", pool, engine_ranks, config)

    def sync(self, probe: Sequence[int], tolerance: float) -> float:
        """Send the weights to the engines as the next version; both sides score a fixed text.

        Returns the largest difference of log-probabilities, in nats; raises PolicyError with both values where it
        is over `tolerance`.
        """
        self.version += 1
        return self.send(probe, tolerance)

    def send(self, probe: Sequence[int], tolerance: float) -> float:
        """As `sync`, but as the version that they are: to engines that are new while the policy is not."""
        worst = self._all("send_weights", self.version, list(probe))[0]
        if worst.difference > tolerance:
            raise PolicyError(
                f"after the sync to version {self.version}, engine {worst.engine} disagrees with the trainer: token "
                f"{worst.token} of the probe has log-probability {worst.mine:.6f} in the trainer and "
                f"{worst.theirs:.6f} in the engine (weights.probe_tolerance={tolerance:g}). The engine samples from "
                "other weights."
            )
        return worst.difference

    def score(self, ids: Sequence[int]) -> LogProbs:
        """The trainer's log-probabilities of ids[1:], [length - 1]."""
        return self._all("score", list(ids))[0]

    def update_sft(self, examples: ray.ObjectRef, lengths: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """One step on a list of Example behind a ref; `lengths` has (whole, completion) of each."""
        dealt = plans([(i, 0) for i in range(len(lengths))], [0.0] * len(lengths), lengths, self.policy)
        refs = [rank.update_sft.remote(plan, examples) for rank, plan in zip(self.ranks, dealt, strict=True)]
        return self._statistics(refs)

    def update_grpo(self, collector: ActorHandle, step: int, loss: LossConfig, temperature: float) -> dict[str, Any]:
        """Train every rank on its share of a step's batch, which the collector has.

        Returns means over tokens and optimizer steps, and when the ranks worked.
        """
        return self._statistics([rank.update_grpo.remote(collector, step, loss, temperature) for rank in self.ranks])

    def _statistics(self, refs: list[ray.ObjectRef]) -> dict[str, Any]:
        first, *rest = ray.get(refs, timeout=self.policy.timeout_s)
        for other in rest:
            first.add(other)
        means = first.means()
        if not np.isfinite([means["loss"], means["grad_norm"]]).all():
            raise PolicyError(f"loss {means['loss']} with gradient norm {means['grad_norm']}: the update is not finite")
        return means

    def save(self, folder: Path) -> None:
        """Write the policy in Hugging Face format, adapters merged; they stand by themselves in `folder/adapter`."""
        self._all("save", folder, self.model)

    def save_checkpoint(self, folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
        """Write all that is needed to go on after `step` to `folder/step-000040`, which appears when it is complete.

        `state` is the caller's own and must be JSON. The newest `keep` (1 or more) checkpoints up to this step stay.
        """
        draft = checkpoint.begin(folder.absolute(), step)
        self._all("save_checkpoint", draft)
        return checkpoint.publish(draft, step, state, self.version, self._layout(), keep)

    def load_checkpoint(self, found: Checkpoint) -> dict[str, Any]:
        """Go on from a checkpoint, right after `start` or `load`; returns the state that was saved with it.

        Engines still have other weights: `send` gives them these. Raises PolicyError where the checkpoint is of a
        policy of other ranks, dtype or adapters.
        """
        mine = self._layout()
        if differ := [name for name, value in mine.items() if found.policy.get(name) != value]:
            was = ", ".join(f"policy.{name}={json.dumps(found.policy.get(name))}" for name in differ)
            now = ", ".join(f"policy.{name}={json.dumps(mine[name])}" for name in differ)
            raise PolicyError(
                f"{found.path} was written with {was}; this run has {now}. Go on with the settings it was written "
                f"with, or delete {found.path.parent} to begin anew (other numbers of ranks cannot be loaded yet)."
            )
        self._all("load_checkpoint", found.path.absolute())
        self.version = found.version
        return found.state

    def _layout(self) -> dict[str, Any]:
        """The settings that the files of a checkpoint depend on."""
        return self.policy.model_dump(mode="json", include={"ranks", "dtype", "lora"})

    def stop(self) -> None:
        """End the ranks."""
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks.clear()
