"""The refit: module by module through the shrunk model, least squares against what the source does there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN, KV_HEADS
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import Selection
from hf_learngene.pruning.activations import Activations, Runner
from hf_learngene.pruning.examples import Examples, rows_of, tokens_shown
from hf_learngene.pruning.moments import RIDGE, Moments, normalised
from hf_learngene.pruning.sites import RefitSite, sites_of


@dataclass(frozen=True)
class Fitted:
    """What one step of the refit left.

    Attributes:
        name: the module.
        tokens: it was fitted on.
        before: mean squared distance to what the source does there, as a share of its spread, before the step.
        after: the same after it.
    """

    name: str
    tokens: int
    before: float
    after: float


class Refit:
    """Brings a shrunk model, stream by stream, back to what its source does.

    Every matrix that writes the stream is solved for what makes the stream there the source's, so that what went wrong below is
    mended above; every other matrix for the source's own outputs, from the inputs that the shrunk model gives it.

    Args:
        source, source_anatomy: the model that was shrunk.
        target, target_anatomy: what recipes made of it; changed in place.
        selection: what was kept.
        examples: calibration examples.
        ridge: how strongly weights are kept where the examples say little.
    """

    def __init__(
        self,
        source: PreTrainedModel,
        source_anatomy: Anatomy,
        target: PreTrainedModel,
        target_anatomy: Anatomy,
        selection: Selection,
        examples: Examples,
        ridge: float = RIDGE,
    ) -> None:
        self.source, self.source_anatomy = source, source_anatomy
        self.target, self.target_anatomy = target, target_anatomy
        self.selection, self.examples, self.ridge = selection, examples, ridge
        self._centred = {n.name: n.centred for n in target_anatomy.norms}

    @torch.no_grad()
    def run(self, disable_progress: bool = False) -> list[Fitted]:
        """Refits everything, in order of execution."""
        first = next(self.examples.batches())
        groups = list(
            _grouped(
                sites_of(
                    self.target, self.target_anatomy, self.selection.layers, self.source_anatomy.num_layers, first
                )
            )
        )
        given, made = Runner(self.source, self.source_anatomy), Runner(self.target, self.target_anatomy)
        report: list[Fitted] = []
        current: int | None = None
        try:
            for group in tqdm(groups, desc="calibrating", disable=disable_progress):
                site = group[0]
                if site.layer is not None and site.source_layer is not None:
                    made.cache_prefix(site.layer, self.examples.batches())
                    given.cache_prefix(site.source_layer, self.examples.batches())
                    if site.layer != current:
                        current = site.layer
                        inside = [s for g in groups for s in g if s.layer == current]
                        norms = list(dict.fromkeys(s.norm_after[1] for s in inside if s.norm_after))
                        given.remember(self.examples.batches(), norms, list(dict.fromkeys(s.source for s in inside)))
                elif site.after_layers:
                    made.cache_prefix(self.target_anatomy.num_layers, self.examples.batches())
                    given.cache_prefix(self.source_anatomy.num_layers, self.examples.batches())
                report += self._norm(site, given, made) if site.is_norm else self._matrices(group, given, made)
        finally:
            given.close()
            made.close()
        return report

    # ---- matrices

    def _matrices(self, group: Sequence[RefitSite], given: Runner, made: Runner) -> list[Fitted]:
        group = [s for s in group if self._fits(s)]
        if not group:
            return []
        moments = {site.name: Moments() for site in group}
        for number, batch in enumerate(self.examples.batches()):
            after = [s.norm_after for s in group if s.norm_after]
            ours = made.capture(
                number,
                batch,
                inputs=[*(s.name for s in group), *(a[0] for a in after)],
                outputs=[s.name for s in group if s.norm_after],
            )
            theirs = given.capture(
                number,
                batch,
                inputs=[a[1] for a in after],
                outputs=[s.source for s in group],
            )
            shown = tokens_shown(batch)
            for site in group:
                for x, y in self._pairs(site, ours, theirs):
                    moments[site.name].add(rows_of(x, shown), rows_of(y, shown))
        return [self._solve(site, moments[site.name]) for site in group if moments[site.name].count]

    def _pairs(self, site: RefitSite, ours: Activations, theirs: Activations) -> Iterator[tuple[Tensor, Tensor]]:
        """(input of the target's matrix, what it is to give) for each of its calls."""
        inputs, outputs = ours.inputs[site.name], theirs.outputs[site.source]
        if site.norm_after is not None:
            name, source = site.norm_after
            written, streams, wanted = ours.outputs[site.name], ours.inputs[name], theirs.inputs[source]
            # a norm behind a pooling sees something else
            if all(a.shape == b.shape for a, b in zip(written, streams, strict=False)):
                scale = self._layer_scale(site)
                for x, out, stream, goal in zip(inputs, written, streams, wanted, strict=False):
                    rest = stream.double() - out.double() * scale
                    goal = self.selection.residual(goal).double()
                    if site.skips:
                        goal = _as_norms_see(goal, stream.double(), self._centred[name])
                    yield x, (goal - rest) / scale
                return
        for x, y in zip(inputs, outputs, strict=False):
            yield x, self.rows(site, y)

    def _layer_scale(self, site: RefitSite) -> Tensor:
        name = site.weight.scaled_by
        if not name:
            return torch.ones((), dtype=torch.float64)
        scale = self.target.get_parameter(name.format(site.layer)).detach().double()
        return torch.where(scale.abs() < 1e-12, torch.ones_like(scale), scale)

    def _solve(self, site: RefitSite, moments: Moments) -> Fitted:
        module: Any = self.target.get_submodule(site.name)
        weight, bias = module.weight.detach().double().cpu(), module.bias
        old = bias.detach().double().cpu() if bias is not None else None
        before = moments.error(weight, old)
        inputs = weight.shape[1]
        ridge = self.ridge * max(1.0, inputs / max(1, moments.count))
        weight, solved = moments.solve(self.prior(site), bias is not None, ridge)
        module.weight.copy_(weight.to(module.weight))
        if bias is not None and solved is not None:
            bias.copy_(solved.to(bias))
        spread = moments.spread().clamp_min(1e-30)
        after = moments.error(weight, solved)
        return Fitted(site.name, moments.count, float(before / spread), float(after / spread))

    # ---- what a row and a column of the target stand for in the source

    def _fits(self, site: RefitSite) -> bool:
        """Whether every row of the matrix stands for something the source gives."""
        dim = site.weight.dims[0]
        old = self._source_info(site).dims[0]
        return site.norm_after is not None or dim.axis in (HEADS, KV_HEADS, FFN, HIDDEN) or dim.size == old.size

    def _source_info(self, site: RefitSite) -> TensorInfo:
        return self.source_anatomy.tensors[f"{site.source}.weight"]

    def rows(self, site: RefitSite, values: Tensor) -> Tensor:
        """Values over the source's outputs of a site, (..., outputs), as the target's."""
        info, new = self._source_info(site), site.weight
        dim, size, layer = info.dims[0], new.dims[0].size, self._layer(site)
        if dim.axis == FFN and (layer is None or layer not in self.selection.units):
            return _evenly(values, dim.parts, size // dim.parts)
        if dim.axis == HIDDEN and not info.writes_stream and dim.size == size:
            return values
        return self.selection.take(values, dim, layer, info.role, info.writes_stream)

    def _layer(self, site: RefitSite) -> int | None:
        return 0 if site.source_layer is None and self.source_anatomy.shared_layers else site.source_layer

    def prior(self, site: RefitSite) -> Tensor:
        """The source's weight as the target would hold it if nothing else had changed, (outputs, inputs), float64."""
        info = self._source_info(site)
        weight = self.source.get_parameter(info.name).detach().double().cpu()
        weight = self.rows(site, weight.T).T
        old, new, layer = info.dims[1], site.weight.dims[1], self._layer(site)
        if old.axis == FFN and (layer is None or layer not in self.selection.units):
            return _evenly(weight, old.parts, new.size // old.parts)
        if old.axis == HIDDEN and info.reads_norm and self.selection.rotation is not None:
            parts = weight.unflatten(1, (old.parts, -1))  # (outputs, parts, source width)
            rotation = self.selection.rotation * (old.size / new.size)
            return ((parts * self._gain(site)) @ rotation).flatten(1)
        if old.axis in (HIDDEN, FFN) or (old.axis == HEADS and layer is not None):
            same = old.axis == HIDDEN and not info.reads_norm and old.size == new.size
            return weight if same else self.selection.take(weight, old, layer, "o", info.reads_norm)
        if old.size == new.size:
            return weight
        return weight[:, uniform_indices(old.size, new.size)]

    def _gain(self, site: RefitSite) -> Tensor:
        norm: Any = self.source.get_submodule(site.norm_before) if site.norm_before else None
        return norm.weight.detach().double().cpu() if norm is not None else torch.ones((), dtype=torch.float64)

    # ---- norms, where the stream keeps its coordinates

    def _norm(self, site: RefitSite, given: Runner, made: Runner) -> list[Fitted]:
        fewer = self.target_anatomy.num_layers < self.source_anatomy.num_layers
        if self.selection.coordinates is None and not (self.source_anatomy.post_norm and fewer):
            return []
        module: Any = self.target.get_submodule(site.name)
        info = next(n for n in self.target_anatomy.norms if n.name == site.name)
        undecoded = self._decoder_map(site)
        moments = _Lines()
        for number, batch in enumerate(self.examples.batches()):
            ours = made.capture(number, batch, inputs=[site.name])
            theirs = given.capture(number, batch, outputs=[site.source])
            shown = tokens_shown(batch)
            for x, y in zip(ours.inputs[site.name], theirs.outputs[site.source], strict=False):
                wanted = y.double() @ undecoded.to(y.device) if undecoded is not None else self.selection.residual(y)
                moments.add(rows_of(normalised(module, x, info.centred), shown), rows_of(wanted, shown))
        bias = getattr(module, "bias", None)
        gain, shift, before, after = moments.solve(
            module.weight.detach().double().cpu(),
            bias.detach().double().cpu() if bias is not None else None,
            self.ridge,
        )
        module.weight.copy_(gain.to(module.weight))
        if bias is not None and shift is not None:
            bias.copy_(shift.to(bias))
        return [Fitted(site.name, moments.count, before, after)]

    def _decoder_map(self, site: RefitSite) -> Tensor | None:
        """For a norm that a tied decoder reads: what to multiply the source's output by, so that the logits are nearest."""
        name = self.source_anatomy.tied_readers.get(site.source)
        if name is None or self.selection.coordinates is None:
            return None
        table = self.source.get_parameter(name).detach().double().cpu()
        kept = table[:, self.selection.coordinates]
        return torch.linalg.solve(kept.T @ kept, kept.T @ table).T


class _Lines:
    """One straight line for each output: y ≈ gain * z + shift."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | None = None

    def add(self, z: Tensor, y: Tensor) -> None:
        z, y = z.double(), y.double()
        more = torch.stack([z.sum(0), y.sum(0), (z * z).sum(0), (z * y).sum(0), (y * y).sum(0)]).cpu()
        self.sums = more if self.sums is None else self.sums + more
        self.count += len(z)

    def solve(self, gain: Tensor, shift: Tensor | None, ridge: float) -> tuple[Tensor, Tensor | None, float, float]:
        if self.sums is None:
            return gain, shift, 0.0, 0.0
        z, y, zz, zy, yy = self.sums / self.count
        spread = (yy - y * y).sum().clamp_min(1e-30)

        def error(gain: Tensor, shift: Tensor | None) -> float:
            b = shift if shift is not None else torch.zeros_like(gain)
            return float((gain**2 * zz + b**2 + yy + 2 * gain * b * z - 2 * gain * zy - 2 * b * y).sum() / spread)

        if shift is None:
            new, level = (zy + ridge * gain) / (zz + ridge), None
        else:
            new = (zy - z * y + ridge * gain) / (zz - z * z + ridge)
            level = y - new * z
        return new, level, error(gain, shift), error(new, level)


def _evenly(values: Tensor, parts: int, new: int) -> Tensor:
    """Evenly spaced units of each part, where nothing was selected: (..., parts * units)."""
    opened = values.unflatten(-1, (parts, -1))
    return opened[..., uniform_indices(opened.shape[-1], new)].flatten(-2)


def _as_norms_see(goal: Tensor, given: Tensor, centred: bool) -> Tensor:
    """`goal` on the scale, and about the mean, of what is there: a norm sees neither, so neither has to be reached."""
    mean = given.mean(-1, keepdim=True) if centred else torch.zeros_like(given[..., :1])
    goal = goal - goal.mean(-1, keepdim=True) if centred else goal
    length = goal.pow(2).sum(-1, keepdim=True).clamp_min(1e-30)
    along = (goal * (given - mean)).sum(-1, keepdim=True) / length
    least = 0.1 * ((given - mean).pow(2).sum(-1, keepdim=True) / length).sqrt()
    return goal * torch.maximum(along, least) + mean


def _grouped(sites: Sequence[RefitSite]) -> Iterator[list[RefitSite]]:
    """Sites that can be solved in one pass: queries, keys and values of a layer read one input and feed no other of the group."""
    group: list[RefitSite] = []
    for site in sites:
        together = (
            group
            and site.layer is not None
            and site.layer == group[0].layer
            and site.weight.role in ("q", "k", "v")
            and group[0].weight.role in ("q", "k", "v")
        )
        if not together and group:
            yield group
            group = []
        group.append(site)
    if group:
        yield group
