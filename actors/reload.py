"""New weights for a vLLM engine that runs: what its worker processes do, and what vLLM on CPU leaves out.

Imports nothing heavy, as it is imported into every process of an engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from actors.models import tensor_files


class CheckpointLoader:
    """Named in vLLM's `worker_extension_cls`: gives each worker a method that loads a checkpoint from its folder."""

    def load_checkpoint(self, folder: str) -> None:
        """Replace the model's weights by those of a folder's safetensors files. The engine must be idle.

        Where it fails, part of the weights may have been replaced: load a good checkpoint before anything is sampled.
        """
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        runner = self.model_runner  # type: ignore[attr-defined]
        initialize_layerwise_reload(runner.model)
        runner.model.load_weights(_tensors(Path(folder)))
        finalize_layerwise_reload(runner.model, runner.model_config)
        repack_lm_head(runner.model, runner.device)


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    where = tensor_files(folder)
    for file in sorted({*where.values()}):
        with safe_open(file, "pt") as opened:
            yield from ((name, opened.get_tensor(name)) for name in where if where[name] == file)


def repack_lm_head(model: torch.nn.Module, device: torch.device) -> None:
    """Pack lm_head's weights again on CPU.

    An embedding and a head that share their parameter each hold their own packed copy for the matrix product. The
    layerwise reload sees no weight arrive for the head and leaves its copy stale: silently wrong logits.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and device.type == "cpu":
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        dispatch_cpu_unquantized_gemm(head, remove_weight=False)
