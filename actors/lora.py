"""Low-rank adapters on the ZeRO-3 policy, through peft.

The adapters are injected into the model in place: it stays the Hugging Face model that it was, in which an adapted
layer is called `...q_proj.base_layer` and has `lora_A` and `lora_B` beside it. Whoever needs the model as others know
it (an engine, a checkpoint on disk) asks for its plain parameters, in which the adapters are merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from actors.config import LoraConfig
from actors.errors import PolicyError
from actors.models import hub_name

if TYPE_CHECKING:
    from peft import PeftModel

_ADAPTER = "default"
_SEED = 0
"""Of the first values of A. B begins at zero, so the model begins as it was."""


@dataclass(frozen=True)
class Adapter:
    """What is added to a weight [out, in]: scale * b @ a, with a [rank, in] and b [out, rank]."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scale: float


@dataclass(frozen=True)
class PlainParameter:
    """A parameter under the name that it has without adapters."""

    name: str
    parameter: torch.nn.Parameter
    adapter: Adapter | None = None

    @property
    def parts(self) -> list[torch.nn.Parameter]:
        """What must be gathered before `merged`."""
        return [self.parameter, self.adapter.a, self.adapter.b] if self.adapter else [self.parameter]

    def merged(self) -> torch.Tensor:
        """The parameter with its adapter, computed in float32 and cast once; without one the parameter itself."""
        weight = self.parameter.detach()
        if self.adapter is None:
            return weight
        change = self.adapter.scale * (self.adapter.b.detach().float() @ self.adapter.a.detach().float())
        return (weight.float() + change).to(weight.dtype)


def plain_parameters(module: torch.nn.Module) -> list[PlainParameter]:
    """All parameters under their Hugging Face names, each with its adapter; a tied head stands under its embedding."""
    found = []
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            continue
        layer_name, adapted, last = name.rpartition(".base_layer.")
        if not adapted:
            found.append(PlainParameter(name, parameter))
            continue
        layer = module.get_submodule(layer_name)
        adapter = Adapter(layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight, layer.scaling[_ADAPTER])
        found.append(PlainParameter(f"{layer_name}.{last}", parameter, adapter if last == "weight" else None))
    return found


def add_adapters(module: torch.nn.Module, config: LoraConfig, model: str | Path) -> PeftModel:
    """Freeze the module and add adapters to it in place, with the same first values in every process.

    `model` is the name or folder that the module was loaded from; saved adapters say it. Returns peft's view of the
    module, from which `save_adapter` writes. Raises PolicyError where a target is no linear module. The head is none
    of them: where it is tied it is the embedding too, and engines hold both as one.
    """
    import peft

    head = module.get_output_embeddings()
    linear = [name for name, m in module.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    if config.targets == "all-linear":
        chosen = linear
    else:
        matches = {target: [n for n in linear if f".{n}".endswith(f".{target}")] for target in config.targets}
        if not matches or (unknown := [target for target, names in matches.items() if not names]):
            ends = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            given = f"{', '.join(unknown)} matches no linear module" if matches else "the list is empty"
            raise PolicyError(
                f"policy.lora.targets: {given} of {model}. It has {ends}; all-linear takes all of them (the head is "
                "never adapted)"
            )
        chosen = [name for name in linear if any(name in names for names in matches.values())]
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft says int and only ever divides it
        target_modules=chosen,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        # DeepSpeed keeps its own float32 copy; a float32 adapter in a bfloat16 model it would refuse.
        adapted = peft.get_peft_model(module, settings, autocast_adapter_dtype=False)
    named = hub_name(model) if not Path(model).is_dir() else None
    settings.base_model_name_or_path, settings.revision = named or (str(Path(model).absolute()), None)
    return adapted


def save_adapter(adapted: PeftModel, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the adapters in peft's format. `state` has the full `lora_` tensors by their names in the module."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    prefixed = {f"base_model.model.{name}": tensor for name, tensor in state.items()}
    tensors = get_peft_model_state_dict(adapted, state_dict=prefixed, save_embedding_layers=False)
    replace(adapted.peft_config[_ADAPTER], inference_mode=True).save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
