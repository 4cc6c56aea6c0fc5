"""The correspondence of a pruned model's tensors and activations to the source's, under one selection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN, KV_HEADS
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import Selection
from hf_learngene.pruning.sites import RefitSite


class Correspondence:
    """What a value over the source's units, heads and residual stream is over the target's.

    Args:
        source (`PreTrainedModel`): the model that was pruned.
        anatomy (`Anatomy`): its own.
        selection (`Selection`): what is kept of it.
    """

    def __init__(self, source: PreTrainedModel, anatomy: Anatomy, selection: Selection) -> None:
        self.source, self.anatomy, self.selection = source, anatomy, selection

    def has_rows(self, site: RefitSite) -> bool:
        """Whether every row of a site's matrix stands for something that the source gives."""
        dim = site.weight.dims[0]
        old = self._info(site).dims[0]
        return site.norm_after is not None or dim.axis in (HEADS, KV_HEADS, FFN, HIDDEN) or dim.size == old.size

    def rows(self, site: RefitSite, values: Tensor) -> Tensor:
        """Values over the source's outputs of a site, (..., source outputs), as the target's, (..., target outputs)."""
        info, new = self._info(site), site.weight
        dim, size, layer = info.dims[0], new.dims[0].size, self._layer(site)
        if dim.axis == FFN and (layer is None or layer not in self.selection.units):
            return _evenly(values, dim.parts, size // dim.parts)
        if dim.axis == HIDDEN and not info.writes_stream and dim.size == size:
            return values
        return self.selection.take(values, dim, layer, info.role, info.writes_stream)

    def prior(self, site: RefitSite) -> Tensor:
        """The source's weight as the target would hold it if nothing else had changed, (outputs, inputs), float64."""
        info = self._info(site)
        weight = self.source.get_parameter(info.name).detach().double().cpu()
        weight = self.rows(site, weight.T).T
        old, new, layer = info.dims[1], site.weight.dims[1], self._layer(site)
        if old.axis == FFN and (layer is None or layer not in self.selection.units):
            return _evenly(weight, old.parts, new.size // old.parts)
        if old.axis == HIDDEN and info.reads_norm and self.selection.rotation is not None:
            parts = weight.unflatten(1, (old.parts, -1))  # (outputs, parts, source width)
            rotation = self.selection.rotation * (old.size / new.size)
            return ((parts if self.selection.gains else parts * self._gain(site)) @ rotation).flatten(1)
        if old.axis in (HIDDEN, FFN) or (old.axis == HEADS and layer is not None):
            same = old.axis == HIDDEN and not info.reads_norm and old.size == new.size
            return weight if same else self.selection.take(weight, old, layer, "o", info.reads_norm)
        if old.size == new.size:
            return weight
        return weight[:, uniform_indices(old.size, new.size)]

    def decoder_map(self, site: RefitSite) -> Tensor | None:
        """The matrix that brings the output of a norm before a tied decoder to where the logits are nearest, or None.

        (source width, target width), for the norm's site; None where no tied decoder reads it, or all entries are kept.
        """
        name = self.anatomy.tied_readers.get(site.source)
        if name is None or self.selection.coordinates is None:
            return None
        table = self.source.get_parameter(name).detach().double().cpu()
        kept = table[:, self.selection.coordinates]
        return torch.linalg.solve(kept.T @ kept, kept.T @ table).T

    def _info(self, site: RefitSite) -> TensorInfo:
        return self.anatomy.tensors[f"{site.source}.weight"]

    def _layer(self, site: RefitSite) -> int | None:
        return 0 if site.source_layer is None and self.anatomy.shared_layers else site.source_layer

    def _gain(self, site: RefitSite) -> Tensor:
        """The weight of the norm before a site: where the stream is rotated, it moves into the matrix that reads it."""
        norm: Any = self.source.get_submodule(site.norm_before) if site.norm_before else None
        return norm.weight.detach().double().cpu() if norm is not None else torch.ones((), dtype=torch.float64)


def _evenly(values: Tensor, parts: int, new: int) -> Tensor:
    """Evenly spaced units of each part, where nothing was selected: (..., parts * units)."""
    opened = values.unflatten(-1, (parts, -1))
    return opened[..., uniform_indices(opened.shape[-1], new)].flatten(-2)


__all__ = ["Correspondence"]
