"""What is kept of a source: layers, entries of the residual stream, heads, ffn units, and how heads are made smaller.

One description serves both sides: recipes pick the entries of a weight by `index`, and a refit brings what the source computes
to the same entries by `take`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEADS, HIDDEN, KV_HEADS, Dim
from hf_learngene.maps.ops import Context, Op


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """Maps of one layer's kept heads to a smaller head size, each (heads, head size, new head size).

    Attributes:
        query, key, value: what queries, keys and values are multiplied by.
        output: what the columns of the output matrix, which reads the values, are multiplied by.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor

    def of(self, role: str) -> Tensor:
        """The maps of `q`, `k`, `v` or `o`, one part, or of a fused `qkv`, three: (parts, heads, head size, new head size)."""
        by_role = {"q": self.query, "k": self.key, "v": self.value, "o": self.output}
        return torch.stack([by_role[r] for r in role])


def beside(tensors: Sequence[Tensor], dim: int, info: Dim) -> Tensor:
    """Tensors of several layers along one axis: their heads or units after one another, in each part that is fused in it.

    Example:
        >>> fused = Dim("ffn", 4, parts=2)
        >>> beside([torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])], 0, fused).tolist()
        [1, 2, 5, 6, 3, 4, 7, 8]
    """
    if len(tensors) == 1:
        return tensors[0]
    dim %= tensors[0].dim()
    if info.parts == 1 or info.by_head:
        return torch.cat(list(tensors), dim)
    return torch.cat([t.unflatten(dim, (info.parts, -1)) for t in tensors], dim + 1).flatten(dim, dim + 1)


@dataclass(frozen=True, eq=False)
class Selection:
    """What one resize keeps. Indices are the source's, ascending, by source layer.

    Attributes:
        layers: source layer of each target layer.
        coordinates: entries of the residual stream that are kept, where its norms scale each by itself; None where all are, or
            directions of it.
        rotation: (source width, target width), where the residual stream is rotated; None where it is not.
        merged: source layers that run side by side as one layer of the target, by the first of them; `units` and `heads` of that
            one count through all of them.
        gains: whether norms keep gains of their own beside a rotation (post-norm), and they are not moved into what reads them.
        pooled: kept entries of a width outside the residual stream (a pooler's).
        units: kept units of each layer's ffn.
        heads: kept query heads of each layer's attention.
        head_size: of the source's heads.
        group: how many query heads of the source share a key and a value.
        inside: the maps of each layer's heads to a smaller head size, where they are projected.
        entries: which entries of each kept head are kept, (heads, new head size), where they are picked.
        stages: of a hierarchy, what is kept of each stage; all else is then empty.
    """

    layers: tuple[int, ...] = ()
    coordinates: Tensor | None = None
    rotation: Tensor | None = None
    pooled: Tensor | None = None
    units: Mapping[int, Tensor] = field(default_factory=dict)
    heads: Mapping[int, Tensor] = field(default_factory=dict)
    head_size: int = 1
    group: int = 1
    inside: Mapping[int, HeadMaps] = field(default_factory=dict)
    entries: Mapping[int, Tensor] = field(default_factory=dict)
    gains: bool = False
    merged: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    stages: tuple[Selection, ...] = ()

    def of_stage(self, stage: int | None) -> Selection:
        """What is kept of one stage, which knows of the others; itself without stages."""
        if stage is None or not self.stages:
            return self
        return dataclasses.replace(self.stages[stage], stages=self.stages)

    @property
    def kept_layers(self) -> list[Any]:
        """The source layer of each target layer; of a hierarchy a list for each stage."""
        return [list(stage.layers) for stage in self.stages] or list(self.layers)

    def together(self, layer: int | None) -> tuple[int | None, ...]:
        """The layers that are one layer of the target, by the first of them."""
        return (layer,) if layer is None else self.merged.get(layer, (layer,))

    def index(self, axis: str, layer: int | None, in_stream: bool = True) -> Tensor | None:
        """Entries of one part of an axis that are kept, in whole heads; None where nothing was selected.

        Args:
            axis: `hidden`, `ffn`, `heads`, `kv_heads` or `head_count`.
            layer: of the source.
            in_stream: for `hidden`: whether the width is the residual stream's, or that of a pooler's output.
        """
        if axis == HIDDEN:
            return self.coordinates if in_stream else self.pooled
        if layer is None:
            return None
        if axis == FFN:
            return self.units.get(layer)
        if axis not in (HEADS, KV_HEADS, HEAD_COUNT) or layer not in self.heads:
            return None
        heads = self._heads(axis, layer)
        if axis == HEAD_COUNT:
            return heads
        inner = self.entries.get(layer) if axis == HEADS else None
        if inner is None:
            inner = torch.arange(self.head_size).expand(len(heads), -1)
        return (heads[:, None] * self.head_size + inner).flatten()

    def residual(self, values: Tensor) -> Tensor:
        """The source's residual stream, (..., source width), as the target is to hold it, (..., target width)."""
        if self.rotation is not None:
            values = values.to(torch.promote_types(values.dtype, torch.float32))
            return values @ self.rotation.to(values)
        return values if self.coordinates is None else values[..., self.coordinates.to(values.device)]

    def _heads(self, axis: str, layer: int) -> Tensor:
        """Kept heads: query heads, or the key and value heads that the kept queries share."""
        heads = self.heads[layer]
        return (heads // self.group).unique() if axis == KV_HEADS else heads

    def take(self, values: Tensor, dim: Dim, layer: int | None, role: str = "", in_stream: bool = True) -> Tensor:
        """What the source computes along an axis, (..., entries of the source), as the target is to hold it.

        Args:
            values: with the axis last.
            dim: the axis as the source's tensor has it, with what is fused in it.
            layer: of the source.
            role: `q`, `k`, `v` or `qkv`, whose maps to a smaller head size are taken; `o` for the columns of a matrix that reads
                the heads.
            in_stream: as in `index`.
        """
        if dim.stage is not None:  # the width of another stage, which a patch merging reads
            return self.of_stage(dim.stage).take(values, dataclasses.replace(dim, stage=None), None, role, in_stream)
        if dim.axis == HIDDEN and in_stream and self.rotation is not None:
            return self.residual(values)
        index = self.index(dim.axis, layer, in_stream)
        maps = self.inside.get(layer) if layer is not None and dim.axis in (HEADS, KV_HEADS) else None
        if index is None and maps is None:
            return values
        if dim.axis not in (HEADS, KV_HEADS) and index is not None:
            kept: Tensor = values.unflatten(-1, (dim.parts, -1))[..., index.to(values.device)]  # (..., parts, kept)
            return kept.flatten(-2)
        opened: Tensor
        if dim.by_head:
            opened = values.unflatten(-1, (-1, dim.parts, self.head_size)).transpose(-2, -3)
        else:
            opened = values.unflatten(-1, (dim.parts, -1, self.head_size))
        if index is not None and layer is not None:  # (..., parts, heads, head size)
            heads = self._heads(dim.axis, layer)
            opened = opened.flatten(-2)[..., index.to(values.device)].unflatten(-1, (len(heads), -1))
        if maps is not None:
            opened = torch.einsum("...pha,phab->...phb", opened.double(), maps.of(role).to(values.device))
        return (opened.transpose(-2, -3) if dim.by_head else opened).flatten(-3)


@dataclass(frozen=True)
class Beside(Op):
    """Puts the like tensors of other layers beside a tensor, along one dimension.

    Attributes:
        names: of the others.
        dim: the dimension.
        info: what it counts, with what is fused in it.
    """

    names: tuple[str, ...]
    dim: int
    info: Dim
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        return beside([tensor, *(context.read(n).to(tensor) for n in self.names)], self.dim, self.info)


@dataclass(frozen=True, eq=False)
class Keep(Op):
    """Keeps what a selection keeps along one dimension of a tensor.

    Attributes:
        selection: what is kept.
        dim: the dimension.
        info: what it counts, with what is fused in it.
        layer: of the source.
        role: as in `Selection.take`.
        in_stream: as in `Selection.index`.
    """

    selection: Selection
    dim: int
    info: Dim
    layer: int | None
    role: str = ""
    in_stream: bool = True
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        moved = tensor.movedim(self.dim, -1)
        kept = self.selection.take(moved, self.info, self.layer, self.role, self.in_stream)
        return kept.movedim(-1, self.dim).to(tensor.dtype).contiguous()
