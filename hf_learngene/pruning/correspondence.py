"""The correspondence of a pruned model's tensors and activations to the source's, under one selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN, KV_HEADS
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import Selection, beside
from hf_learngene.pruning.sites import RefitSite


TINY = 1e-6  # a gain that nothing passes


class Correspondence:
    """What a value over the source's units, heads and residual stream is over the target's.

    Args:
        source (`PreTrainedModel`): the model that was pruned.
        anatomy (`Anatomy`): its own.
        selection (`Selection`): what is kept of it.
    """

    def __init__(self, source: PreTrainedModel, anatomy: Anatomy, selection: Selection) -> None:
        self.source, self.anatomy, self.selection = source, anatomy, selection

    def outputs(self, site: RefitSite, found: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
        """What the source gives at a site, call by call; of all layers that the site's layer is made of."""
        if self._info(site).role in ("o", "ffn_out"):
            return list(found[site.source])
        calls = zip(*(found[name] for name in (site.source, *site.beside)), strict=True)
        return [beside(each, -1, self._info(site).dims[0]) for each in calls]

    def added(self, site: RefitSite, found: Mapping[str, Sequence[Tensor]], call: int) -> Tensor | float:
        """What the other layers that a site's layer is made of add to the residual stream at the like modules."""
        total: Tensor | float = 0.0
        for name in site.beside:
            info = self.anatomy.tensors[f"{name}.weight"]
            scale = self.source.get_parameter(info.scaled_by.format(info.layer)).detach() if info.scaled_by else 1.0
            total = total + found[name][call] * scale
        return total

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
        weight = self.rows(site, self._weight(site).T).T
        old, new, layer = info.dims[1], site.weight.dims[1], self._layer(site)
        if old.axis == FFN and (layer is None or layer not in self.selection.units):
            return _evenly(weight, old.parts, new.size // old.parts)
        if old.axis == HIDDEN and info.reads_norm and self.selection.rotation is not None:
            parts = weight.unflatten(1, (old.parts, -1))  # (outputs, parts, source width)
            return (parts @ (self.selection.rotation.to(parts) * (old.size / new.size))).flatten(1)
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
        table = self.source.get_parameter(name).detach().double()
        kept = table[:, self.selection.coordinates]
        return torch.linalg.solve(kept.T @ kept, kept.T @ table).T

    def _info(self, site: RefitSite) -> TensorInfo:
        return self.anatomy.tensors[f"{site.source}.weight"]

    def _layer(self, site: RefitSite) -> int | None:
        return 0 if site.source_layer is None and self.anatomy.shared_layers else site.source_layer

    def _weight(self, site: RefitSite) -> Tensor:
        """The source's weight, of all layers that the site's layer is made of, as a norm without gains would have it read."""
        info, found = self._info(site), []
        for name in (site.source, *site.beside):
            found.append(self.source.get_parameter(f"{name}.weight").detach().double())
        turned = self.selection.rotation is not None
        reads = info.dims[1].axis == HIDDEN and info.reads_norm and site.norm_before
        if reads and not self.anatomy.post_norm and (turned or site.beside):
            gains = [self._gain(n) for n in (str(site.norm_before), *site.norms_beside)]
            if not turned:  # the target's norm has the gains of the first
                gains = [torch.where(gains[0].abs() > TINY, g / gains[0], 1.0) for g in gains]
            found = [
                (w.unflatten(1, (info.dims[1].parts, -1)) * g).flatten(1) for w, g in zip(found, gains, strict=True)
            ]
        if info.scaled_by and (turned or site.beside):  # a rotated target has no LayerScale, another that of the first
            scales = [self._scale(f"{n}.weight") for n in (site.source, *site.beside)]
            found = [w * (s if turned else s / scales[0])[:, None] for w, s in zip(found, scales, strict=True)]
        dim = int(info.role in ("o", "ffn_out"))
        return beside(found, dim, info.dims[dim])

    def _scale(self, name: str) -> Tensor:
        """The LayerScale behind a matrix, nowhere 0."""
        info = self.anatomy.tensors[name]
        scale = self.source.get_parameter(info.scaled_by.format(info.layer)).detach().double()
        return torch.where(scale.abs() < TINY, torch.full_like(scale, TINY), scale)

    def _gain(self, norm: str) -> Tensor:
        """The weight of a norm: where the stream is rotated, it moves into the matrix that reads it."""
        return self.source.get_parameter(f"{norm}.weight").detach().double()


def _evenly(values: Tensor, parts: int, new: int) -> Tensor:
    """Evenly spaced units of each part, where nothing was selected: (..., parts * units)."""
    opened = values.unflatten(-1, (parts, -1))
    return opened[..., uniform_indices(opened.shape[-1], new)].flatten(-2)


__all__ = ["Correspondence"]
