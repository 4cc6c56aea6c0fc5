"""Requests that grow and shrink a tiny hierarchy, in the words of its own config."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_learngene.anatomy.stages import stage_fields
from hf_learngene.resizing.outputs import difference, in_float64, outputs_of
from testing.families import HIERARCHIES, inputs_for, tiny_model


CASES = [(kind, {}, name) for kind, names in HIERARCHIES.items() for name in names]
FIRST = [(kind, {}, names[0]) for kind, names in HIERARCHIES.items()]


def tiny_hierarchy(kind: str, name: str = "", dtype: torch.dtype = torch.float64, **extra: Any) -> PreTrainedModel:
    """A tiny random model of a hierarchical family, by default of its class for image classification."""
    names = HIERARCHIES[kind]
    chosen = name or next((n for n in names if n.endswith("ForImageClassification")), names[0])
    return tiny_model(kind, chosen, extra, dtype)


def tiny_swin(**extra: Any) -> PreTrainedModel:
    """A tiny Swin whose stages are made of pairs of blocks, 1, 1, 3 and 1 of them."""
    return tiny_hierarchy("swin", depths=[2, 2, 6, 2], **extra)


def native(model: PreTrainedModel, size: str) -> str:
    """The field that says a size of the stages."""
    return stage_fields(model.config)[size].native


def depths(model: PreTrainedModel) -> list[int]:
    """Blocks of each stage."""
    return list(getattr(model.config, native(model, "num_hidden_layers")))


def deeper(model: PreTrainedModel, more: Sequence[int] = (1, 2, 3, 1)) -> dict[str, Any]:
    """A request for more blocks in every stage."""
    return {"num_hidden_layers": [d + m for d, m in zip(depths(model), more, strict=False)]}


def wider(model: PreTrainedModel, times: int = 2) -> dict[str, Any]:
    """A request for so many times every width."""
    name = native(model, "hidden_size")
    value = getattr(model.config, name)
    return {name: times * value if isinstance(value, int) else [times * v for v in value]}


def smaller(model: PreTrainedModel) -> dict[str, Any]:
    """A request for half of every width, and a block less in every stage that has more; one head takes what is left."""
    name, fields = native(model, "hidden_size"), stage_fields(model.config)
    value = getattr(model.config, name)
    asked: dict[str, Any] = {name: value // 2 if isinstance(value, int) else [v // 2 for v in value]}
    if "num_attention_heads" in fields:
        asked[fields["num_attention_heads"].native] = [1] * len(depths(model))
    return asked | {"num_hidden_layers": [max(1, d - 1) for d in depths(model)]}


def structured(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """The model with weights that have something to be chosen: outputs of different size, norms and biases that are not plain."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                size = torch.exp(draw(parameter[:, :1].flatten(1)[:, :1])).reshape(-1, *[1] * (parameter.dim() - 1))
                parameter.copy_(draw(parameter) / parameter[0].numel() ** 0.5 * size)
            elif any(n in name for n in ("scale", "gamma")):
                parameter.copy_(0.5 + draw(parameter).abs())
            else:
                parameter.copy_((name.endswith("weight")) + 0.2 * draw(parameter))
    return model.eval()


def images_for(model: PreTrainedModel, count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Random smooth images of the model's size and dtype: neighbouring places are alike, as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    side = inputs_for(model)["pixel_values"].shape[-1]
    coarse = torch.randn(count, 3, 8, 8, generator=generator, dtype=model.dtype)
    fine = torch.randn(count, 3, side, side, generator=generator, dtype=model.dtype)
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic") + 0.2 * fine
    return [{"pixel_values": image} for image in images]


def furthest(source: PreTrainedModel, other: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> float:
    """The largest relative difference over what both give, without hidden states."""
    with in_float64() if source.dtype == torch.float64 else contextlib.nullcontext():
        first, second = outputs_of(source, inputs), outputs_of(other, inputs)
    found = {name: difference(name, first[name], second[name]) for name in first}
    assert found
    assert all(found.values())
    return max(d.relative for d in found.values() if d is not None)
