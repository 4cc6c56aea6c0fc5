"""LiGO: a larger model by learned linear maps over width and depth (arXiv 2303.00980, ICLR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEAD_DIM, HEADS, HIDDEN, KV_HEADS
from hf_learngene.maps.learned import DepthMix, GrownWidth, GrowthOperator, TensorGrowth, mixed, multiplied, path
from hf_learngene.maps.task import in_stream
from hf_learngene.methods.base import Paper
from hf_learngene.methods.learned import LearnedGrowth
from hf_learngene.methods.registry import register_method


# Widths that each layer has of its own, and so maps of its own; all others are one throughout the network.
_OF_A_LAYER = (HEADS, KV_HEADS, HEAD_DIM, HEAD_COUNT, FFN)


class LigoOperator(GrowthOperator):
    """W*_l = sum over source layers j of c_lj B_j W_j A_j^T, with the rows that a growth adds to B and A, and c, learned.

    What a width's writers and readers learn is one matrix: the residual stream has one for the whole network, each source
    layer one for its queries, keys, values and ffn. Readers take it divided by how often an entry is copied, as the exact growth
    divides their columns. Each kind of tensor has coefficients c of its own, where the depth grows.
    """

    @staticmethod
    def shapes(mixes: Mapping[str, DepthMix], **options: Any) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for template, mix in mixes.items():
            for growth in mix.first.values():
                for width in growth.widths:
                    for name in _factors(growth, width):
                        found[name] = len(width.fresh), width.old // width.blocks.parts
            if mix.deepens:
                found[path("depth", template)] = len(mix.growths), len(mix.layers)
        return found

    def made(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        matrices: dict[Any, Tensor] = {}
        for template, mix in self.mixes.items():
            wide = {layer: self._widened(template, growth, matrices) for layer, growth in mix.first.items()}
            if mix.deepens:
                coefficients = self._starts[template] + self.learned[path("depth", template)]
                made = mixed(coefficients, [wide[layer] for layer in mix.layers])
                state |= {growth.info.name: tensor for growth, tensor in zip(mix.growths, made, strict=True)}
            else:
                state |= {growth.info.name: wide[growth.layer] for growth in mix.growths}
        return state

    def _widened(self, template: str, growth: TensorGrowth, matrices: dict[Any, Tensor]) -> Tensor:
        tensor = self._inputs[template, growth.layer]
        for width in growth.widths:
            start, names = self._starts[template, growth.layer, width.dim], _factors(growth, width)
            key = id(start), width.side == "in", *names
            if key not in matrices:
                matrices[key] = start + self._moved(width, names, start)
            tensor = multiplied(tensor, matrices[key], width.dim)
        return tensor

    def _moved(self, width: GrownWidth, names: list[str], start: Tensor) -> Tensor:
        """What the learned factors add to a width's matrix, (target, source)."""
        whole = torch.zeros_like(start)
        for name, rows, columns in zip(names, width.places(True), width.places(False), strict=True):
            factor = self.learned[name]
            if width.side == "in":
                factor = factor / width.copies.to(factor)
            places = (rows[width.fresh].to(start.device)[:, None], columns.to(start.device)[None])
            whole = whole.index_put(places, factor)
        return whole


def _factors(growth: TensorGrowth, width: GrownWidth) -> list[str]:
    """Names of the factors that the fused parts of a width take."""
    info, parts = growth.info, width.blocks.parts
    axis = info.dims[width.dim].axis
    if axis not in _OF_A_LAYER:
        outside = axis == HIDDEN and not in_stream(info, width.side)
        return [path("width", width.axis, "outside" if outside else None)] * parts
    roles = [""] * parts
    if axis != FFN:
        own = info.role if width.side != "in" and info.role in ("q", "k", "v") else "v"  # what is read are values
        roles = list(info.role) if parts > 1 and len(info.role) == parts else [own] * parts  # fused qkv, kv
    return [path("width", width.axis, role, growth.layer) for role in roles]


@register_method
@dataclass(frozen=True)
class Ligo(LearnedGrowth):
    """Learns, on data, how width and depth grow: linear maps of the source's weights, about 100 steps, then a plain model.

    The maps begin as the exact growth of `lemon`, and its options say how. `train_dataset=` is what they are trained on, by the
    model's own loss: labels, or masked tokens.

    Args:
        symmetry (`str`, *optional*, defaults to `"proj"`): of the start, as in `lemon`.
        depth (`str`, *optional*, defaults to `"allzero"`): of the start, as in `lemon`.
        allow_lossy (`bool`, *optional*, defaults to `False`): start from a growth that is not exact, as in `lemon`.

    Source: paper, section 3; code `VITA-Group/LiGO`. There the maps begin as random rows over stacked layers, and each kind's
    weights and biases alone have coefficients. Readers take the writers' maps, as there; that they are divided by the copies is
    ours, since the start is exact.
    """

    name: ClassVar[str] = "ligo"
    paper: ClassVar[Paper | None] = Paper(
        "Learning to Grow Pretrained Models for Efficient Transformer Training", "2303.00980"
    )
    summary: ClassVar[str] = "maps over width and depth, learned on data (train_dataset=) from the exact growth on"
    operator_class: ClassVar[type[GrowthOperator]] = LigoOperator


__all__ = ["Ligo", "LigoOperator"]
