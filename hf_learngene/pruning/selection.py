"""What of the source stays: layers, heads, units, and the map of the stream. What the recipes and the refit both follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """Maps of one layer's heads to a smaller head size, for the kept heads, (heads, head size, new head size).

    `value_back` (heads, new head size, head size) brings a value back to where the output matrix reads it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    value_back: Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """One resize, as the calibration examples decided it. Indices are the source's, by source layer.

    Attributes:
        layers: source layer of each target layer.
        coordinates: entries of the stream that stay, where its norms scale each by itself (post-norm); None where all do.
        rotation: (source width, target width), where the stream can be turned (pre-norm); None where it is not.
        pooled: entries that stay of a width outside the stream (a pooler's).
        units: of each layer's ffn.
        heads: query heads of each layer's attention.
        group: how many query heads of the source share a key and a value.
        inside: where the head size shrinks, the maps of each layer's heads.
        entries: where the head size shrinks by picking, which entries of each kept head, (heads, new head size).
    """

    layers: tuple[int, ...]
    coordinates: Tensor | None = None
    rotation: Tensor | None = None
    pooled: Tensor | None = None
    units: Mapping[int, Tensor] = field(default_factory=dict)
    heads: Mapping[int, Tensor] = field(default_factory=dict)
    inside: Mapping[int, HeadMaps] = field(default_factory=dict)
    entries: Mapping[int, Tensor] = field(default_factory=dict)
    group: int = 1

    def of_stream(self, values: Tensor) -> Tensor:
        """The source's stream (..., source width) as the target is to hold it (..., target width)."""
        if self.rotation is not None:
            return values.double() @ self.rotation.to(values.device)
        return values if self.coordinates is None else values[..., self.coordinates.to(values.device)]

    def of_pooled(self, values: Tensor) -> Tensor:
        return values if self.pooled is None else values[..., self.pooled.to(values.device)]

    def of_units(self, values: Tensor, layer: int, parts: int = 1) -> Tensor:
        """Values over (parts x units), kept units only."""
        if layer not in self.units:
            return values
        opened = values.reshape(*values.shape[:-1], parts, -1)[..., self.units[layer].to(values.device)]
        return opened.reshape(*values.shape[:-1], -1)

    def kv_heads(self, layer: int) -> Tensor:
        """Key and value heads of a layer in `heads`: those its kept queries look at."""
        return (self.heads[layer] // self.group).unique()

    def of_heads(
        self,
        values: Tensor,
        layer: int,
        role: str,
        size: int,
        parts: int = 1,
        by_head: bool = False,
        shared: bool = False,
    ) -> Tensor:
        """Values over (parts x heads x head size), kept heads only, brought to the new head size.

        Args:
            values: (..., parts * heads * size).
            layer: the source's.
            role: `q`, `k`, `v` or `qkv`.
            size: the source's head size.
            parts: how many of them are fused.
            by_head: whether the parts lie inside each head.
            shared: whether they are keys or values that query heads share.
        """
        shape = values.shape[:-1]
        opened = (
            values.reshape(*shape, -1, parts, size).transpose(-2, -3)
            if by_head
            else values.reshape(*shape, parts, -1, size)
        )
        if layer in self.heads:
            kept = self.kv_heads(layer) if shared else self.heads[layer]
            opened = opened[..., kept.to(values.device), :]
        if layer in self.inside:
            maps = self.inside[layer]
            by_role = {"q": maps.query, "k": maps.key, "v": maps.value}
            chosen = [by_role[r] for r in (role if parts == 1 else "qkv")]
            turned = torch.stack(chosen).to(opened.device)  # (parts, heads, size, new size)
            opened = torch.einsum("...pha,phab->...phb", opened.double(), turned)
        return (opened.transpose(-2, -3) if by_head else opened).reshape(*shape, -1)

    def from_heads(self, weight: Tensor, layer: int, size: int) -> Tensor:
        """Columns over (heads x head size) of a matrix that reads the heads, (outputs, heads * size)."""
        opened = weight.reshape(len(weight), -1, size)
        if layer in self.heads:
            opened = opened[:, self.heads[layer]]
        if layer in self.inside:
            opened = torch.einsum("oha,hba->ohb", opened.double(), self.inside[layer].value_back)
        return opened.reshape(len(weight), -1)
