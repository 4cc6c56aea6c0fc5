"""`Adapter`: what a `PeftModel` adds to its base, by the names of the base's own parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import peft
import torch
from peft.tuners import ia3
from peft.tuners.lora import layer as layers
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.adapters.change import Change
from hf_learngene.errors import AdapterError


MERGE = "Merge it, then resize: peft_model.merge_and_unload()."
_KINDS = (peft.PeftType.LORA, peft.PeftType.IA3)
_LORA = (layers.Linear, layers.Embedding, layers.Conv1d, layers.Conv2d, layers.Conv3d)
_HELD = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "ia3_l", "base_layer")


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter, apart from its base.

    Attributes:
        name: of the adapter in its model.
        config: its settings, as peft has them.
        changes: module of the base -> what is done to it.
        saved: parameter of the base -> the adapter's own in its place (`modules_to_save`, trained biases).
        modules: those of `modules_to_save`.
    """

    name: str
    config: peft.PeftConfig
    changes: Mapping[str, Change]
    saved: Mapping[str, Tensor]
    modules: tuple[str, ...] = ()


def read_adapter(model: peft.PeftModel) -> tuple[Adapter, PreTrainedModel]:
    """The adapter of a model, and its base without it, which shares the model's parameters.

    Raises:
        AdapterError: several adapters, one that is merged, or one of a kind that does not follow its base.
    """
    if len(model.peft_config) != 1:
        raise AdapterError(
            f"The model carries {len(model.peft_config)} adapters ({', '.join(model.peft_config)}), and one follows its base at "
            "a time. Save each, and carry it alone: resize_adapter(folder, resized_base, source)."
        )
    ((name, config),) = model.peft_config.items()
    if config.peft_type not in _KINDS:
        raise AdapterError(
            f"{config.peft_type} adapters do not follow their base; LORA (DoRA too) and IA3 do. "
            "Where the kind can be merged, merge it, then resize: peft_model.merge_and_unload()."
        )
    wrapped: Any = model.base_model.model
    changes = dict(_changes(wrapped, name))
    saved, modules = _saved(wrapped, config)
    return Adapter(name, copy.deepcopy(config), changes, saved, modules), _base(wrapped)


def _changes(wrapped: nn.Module, name: str) -> Iterator[tuple[str, Change]]:
    for module, layer in wrapped.named_modules():
        if isinstance(layer, AuxiliaryTrainingWrapper) and not isinstance(layer, ModulesToSaveWrapper):
            raise AdapterError(f"`{module}` is a {type(layer).__name__}, which does not follow its base. {MERGE}")
        if not isinstance(layer, BaseTunerLayer):
            continue
        if "modules_to_save" in module:
            raise AdapterError(f"`{module}` is adapted inside a module that is saved whole. {MERGE}")
        if layer.merged:
            raise AdapterError(
                f"The adapter is merged into `{module}`. Call unmerge_adapter() first, or merge_and_unload()."
            )
        held = (n for n, _ in nn.Module.named_parameters(cast(nn.Module, layer)))
        strange = next((n for n in held if n.partition(".")[0] not in _HELD), None)
        if type(layer) is ia3.Linear and strange is None and not layer.fan_in_fan_out:
            yield module, _of_ia3(layer, name)
        elif type(layer) in _LORA and strange is None:
            yield module, _of_lora(module, layer, name)
        else:
            raise AdapterError(
                f"`{module}` has a {type(layer).__name__} of {type(layer).__module__}"
                f"{f' with `{strange}`' if strange else ''}, which does not follow its base; LoRA of linear layers, embeddings "
                f"and convolutions does, and IA³ of linear layers. {MERGE}"
            )


def _of_ia3(layer: ia3.Linear, name: str) -> Change:
    vector = layer.ia3_l[name].detach().cpu().double().flatten()
    return Change(columns=vector) if layer.is_feedforward else Change(rows=vector)


def _of_lora(module: str, layer: Any, name: str) -> Change:
    base, variant = layer.get_base_layer(), layer.lora_variant.get(name)
    dora = type(variant) is DoraLinearVariant or variant is DoraLinearVariant
    if variant is not None and not dora:
        kind = variant.__name__ if isinstance(variant, type) else type(variant).__name__
        raise AdapterError(f"`{module}` has LoRA with a {kind}, which does not follow its base. {MERGE}")
    if getattr(base, "groups", 1) != 1 or getattr(layer, "fan_in_fan_out", False):
        raise AdapterError(f"`{module}` is a {base}, whose adapter does not follow it. {MERGE}")
    if isinstance(layer, layers.Embedding):
        left, right, bias = layer.lora_embedding_A[name].T, layer.lora_embedding_B[name].T, None
    else:
        up = layer.lora_B[name]
        left, right, bias = up.weight.flatten(1), layer.lora_A[name].weight, up.bias
    scaling, root = float(layer.scaling[name]), math.sqrt(layer.r[name]) if layer.use_rslora[name] else layer.r[name]
    alpha = layer.lora_alpha[name]
    if alpha / root != scaling:  # set by hand, which no settings tell
        alpha = scaling * root
    change = Change(_double(left), _double(right), scaling, alpha, None if bias is None else _double(bias))
    if bias is not None and base.bias is None:
        raise AdapterError(f"`{module}` has a bias in LoRA and none of its own. {MERGE}")
    if not dora:
        return change
    norms = torch.linalg.vector_norm(change.added(_double(base.weight)), dim=1)
    magnitudes = _double(layer.lora_magnitude_vector[name].weight).flatten()
    rows = magnitudes / norms
    if not bool(torch.isfinite(rows).all()):
        raise AdapterError(f"`{module}` has a row of zeros, for which DoRA has no direction. {MERGE}")
    return Change(change.left, change.right, change.scaling, change.alpha, change.bias, rows, magnitudes=True)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def own_name(name: str) -> str:
    """A parameter's name in the base, of its name in the model with an adapter."""
    parts = name.split(".")
    while "modules_to_save" in parts:
        place = parts.index("modules_to_save")
        parts[place : place + 2] = []
    return ".".join(p for p in parts if p not in ("base_layer", "original_module"))


def _saved(wrapped: nn.Module, config: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The adapter's own parameters in the place of the base's, and the modules that are saved whole."""
    found: dict[str, Tensor] = {}
    modules = {n: m for n, m in wrapped.named_modules() if isinstance(m, ModulesToSaveWrapper)}
    adapted = {n for n, m in wrapped.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, wrapper in modules.items():
        if next(wrapper.original_module.buffers(), None) is not None:
            raise AdapterError(f"`{name}` of modules_to_save has buffers, which no recipe carries. {MERGE}")
    biases = getattr(config, "bias", "none")
    for name, parameter in wrapped.named_parameters(remove_duplicate=False):
        own = own_name(name)
        whole = ".modules_to_save." in f".{name}"
        trained = own.endswith(".bias") and (
            biases == "all" or (biases == "lora_only" and own.rpartition(".")[0] in adapted)
        )
        if whole or (trained and "lora_" not in name and ".original_module." not in name and own not in found):
            found[own] = parameter.detach().cpu()
    return found, tuple(modules)


def _base(wrapped: nn.Module) -> PreTrainedModel:
    """The base without the adapter's modules, of the same parameters."""
    base = copy.deepcopy(wrapped, {id(p): p for p in wrapped.parameters()})
    for name, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            plain = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            plain = module.original_module
        else:
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(base.get_submodule(parent), leaf, plain)
    vars(base).pop("peft_config", None)
    if not isinstance(base, PreTrainedModel):
        raise AdapterError(f"The adapter's base is a {type(base).__name__}, and no model of transformers.")
    return base


__all__ = ["MERGE", "Adapter", "own_name", "read_adapter"]
