"""The refit of a pruned hierarchy: stage by stage and module by module, least squares against the source's activations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.few import ENOUGH, few
from hf_learngene.calibration.held_back import cut, rows_in
from hf_learngene.calibration.shares import total
from hf_learngene.calibration.store import Store
from hf_learngene.calibration.weights import times_of
from hf_learngene.maps.selection import Selection
from hf_learngene.pruning.activations import Activations, Runner
from hf_learngene.pruning.gains import Lines
from hf_learngene.pruning.landing import channel_of_norm, rows_along
from hf_learngene.pruning.moments import RIDGE, Moments, normalised, scarcity
from hf_learngene.pruning.refit import Fitted
from hf_learngene.pruning.refit_check import CHECKED, nearer
from hf_learngene.pruning.running import output_of
from hf_learngene.pruning.stage_sites import StageSite, rows_kept, stage_sites
from hf_learngene.state import evaluating


TINY = 1e-4  # a scale beside the largest
_TOGETHER = ("q", "k", "v")


class StageRefit:
    """Least squares that bring a pruned hierarchy, module by module, back to what its source does.

    The last module that writes the output of a layer is solved for what makes that output the source's, so that what earlier
    modules and pruned layers left out is made up for; every other matrix for the source's own outputs, from what the pruned model
    gives it; where the width is less, norms for what they hand on. Up to the first module that changes, nothing is touched.

    Args:
        source, source_anatomy: the model that was pruned, and its anatomy.
        target, target_anatomy: the pruned model, which is changed in place, and its anatomy.
        selection: what is kept of each stage.
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
        examples: Batches,
        ridge: float = RIDGE,
    ) -> None:
        self.source, self.source_anatomy = source, source_anatomy
        self.target, self.target_anatomy = target, target_anatomy
        self.selection, self.examples, self.ridge = selection, examples, ridge
        self._centred = {n.name: n.centred for n in target_anatomy.norms}
        self._wanted: list[tuple[dict[str, Tensor], Tensor]] = []

    @torch.no_grad()
    def run(self, disable_progress: bool = False) -> list[Fitted]:
        """Refits everything behind the first change, in order of execution, and checks the model on a few of its examples.

        Where the refit leaves it further from the source than it was, it is done again with a larger ridge.

        Raises:
            RefitError: no ridge helps.
        """
        with evaluating(self.source, self.target), Store() as store:
            first = next(self.examples.batches())
            alone = cut(first, torch.arange(rows_in(first)) < 1)
            sites = stage_sites(
                self.source, self.source_anatomy, self.target, self.target_anatomy, self.selection, alone
            )
            start = next((i for i, s in enumerate(sites) if s.touched), len(sites))
            groups = list(_grouped(sites[start:]))
            self._wanted = [(b, output_of(self.source, b)) for b in few(self.examples, self.source, CHECKED, ENOUGH)]
            refitted = {f"{s.name}.{n}": p for s in sites[start:] for n, p in self._module(s).named_parameters()}
            return nearer(
                lambda ridge: self._fit(groups, ridge, disable_progress),
                lambda: self._error(sites),
                refitted,
                self.ridge,
                store,
                "method='weight_selection' looks at none",
            )

    def _module(self, site: StageSite) -> Any:
        return self.target.get_submodule(site.name)

    def _fit(self, groups: Sequence[Sequence[StageSite]], ridge: float, disable_progress: bool) -> list[Fitted]:
        """One refit of everything."""
        report: list[Fitted] = []
        batches, current = self.examples.batches, None
        with (
            Runner(self.source, self.source_anatomy) as source,
            Runner(self.target, self.target_anatomy) as target,
        ):
            for group in tqdm(groups, desc="calibrating", disable=disable_progress):
                ours, theirs = group[0].before
                target.cache_prefix(ours, batches())
                source.cache_prefix(theirs, batches())
                if group[0].source_layer is not None and ours != current:
                    current = ours
                    inside = [s for g in groups for s in g if s.before[0] == ours and s.source_layer is not None]
                    outputs = dict.fromkeys(n for s in inside for n in ((s.goal,) if s.landing else (s.source,)))
                    following = next((g[0].before[1] for g in groups if g[0].before[0] > ours), None)
                    source.remember(batches(), [], list(outputs), following)
                fit = self._norm if group[0].is_norm else self._matrices
                report += fit(group, source, target, ridge)
                target.settle(*(s.name for s in group if not s.is_norm))
        return report

    def _activations(
        self, group: Sequence[StageSite], source: Runner, target: Runner
    ) -> Iterator[tuple[int, Activations, Activations]]:
        """How often each batch counts, and what goes on at some sites in the target and in the source."""
        landings = [s.landing for s in group if s.landing is not None]
        inside = [*(one.writer for one in landings), *(one.layer for one in landings)]
        wanted = list(dict.fromkeys(s.goal if s.landing is not None else s.source for s in group))
        for number, batch in enumerate(self.examples.batches()):
            ours = target.capture(number, batch, inputs=[s.name for s in group], outputs=inside)
            yield times_of(batch), ours, source.capture(number, batch, outputs=wanted)

    def _goals(self, site: StageSite, ours: Activations, theirs: Activations) -> Iterator[Tensor | None]:
        """(tokens, outputs) that the target's module is to give, for each of its calls."""
        kept, landing = self.selection.of_stage(site.stage), site.landing
        if landing is not None:
            written, made, goals = ours.outputs[landing.writer], ours.outputs[landing.layer], theirs.outputs[site.goal]
            for out, stream, goal in zip(written, made, goals, strict=True):
                scale, gives = landing.scale.to(out.device), landing.written(out).double()
                missing = kept.residual(landing.stream(goal)).double() - landing.stream(stream).double()
                seen = (
                    scale.abs() > TINY * scale.abs().max()
                )  # what a LayerScale shuts off cannot be made up for there
                yield gives + torch.where(seen, missing / scale, 0.0)
            return
        for values in theirs.outputs[site.source]:
            channel = 1 if isinstance(self._module(site), nn.Conv2d) else -1
            yield rows_kept(site, kept, rows_along(values, channel))

    # ---- matrices

    def _matrices(self, group: Sequence[StageSite], source: Runner, target: Runner, ridge: float) -> list[Fitted]:
        moments = [Moments() for _ in group]
        for times, ours, theirs in self._activations(group, source, target):
            for site, mine in zip(group, moments, strict=True):
                for x, y in zip(ours.inputs[site.name], self._goals(site, ours, theirs), strict=False):
                    rows = _read(self._module(site), x)
                    if y is not None and len(rows) == len(y) and y.shape[1] == len(self._module(site).weight):
                        mine.add(rows, y, times)
        return [self._solve(site, mine, ridge) for site, mine in zip(group, moments, strict=True) if mine.count]

    def _solve(self, site: StageSite, moments: Moments, ridge: float) -> Fitted:
        module = self._module(site)
        prior, bias = module.weight.detach().double().flatten(1), module.bias
        before = moments.error(prior, bias.detach().double() if bias is not None else None)
        level = scarcity(prior.shape[1], moments.count) * ridge
        weight, solved = moments.solve(prior, bias is not None, level)
        module.weight.copy_(weight.reshape(module.weight.shape).to(module.weight))
        if bias is not None and solved is not None:
            bias.copy_(solved.to(bias))
        spread = moments.spread().clamp_min(1e-30)
        after = moments.error(weight, solved)
        return Fitted(site.name, moments.count, float(before / spread), float(after / spread))

    # ---- norms

    def _norm(self, group: Sequence[StageSite], source: Runner, target: Runner, ridge: float) -> list[Fitted]:
        """Gains and shifts, where the width is less or what a norm writes is to make up for pruned layers."""
        (site,) = group
        module = self._module(site)
        if not site.touched and site.landing is None:
            return []
        centred, lines = self._centred[site.name], Lines()
        for number, batch in enumerate(self.examples.batches()):
            inside = [site.landing.layer] if site.landing is not None else []
            ours = target.capture(number, batch, inputs=[site.name], outputs=[site.name, *inside])
            theirs = source.capture(number, batch, outputs=[site.goal or site.source])
            goals = list(self._goals(site, ours, theirs)) if site.landing is not None else None
            for call, (x, y) in enumerate(zip(ours.inputs[site.name], ours.outputs[site.name], strict=True)):
                channel = channel_of_norm(module, x, y, centred)
                if channel is None:
                    return []
                if goals is not None:
                    wanted = goals[call]
                else:
                    given = rows_along(theirs.outputs[site.source][call], channel)
                    wanted = rows_kept(site, self.selection.of_stage(site.stage), given)
                z = normalised(module, x.movedim(channel, -1), centred).reshape(-1, len(module.weight))
                if wanted is not None and wanted.shape == z.shape:
                    lines.add(z, wanted, times_of(batch))
        if not lines.count:
            return []
        bias = getattr(module, "bias", None)
        old = bias.detach().double() if bias is not None else None
        solved = lines.solve(module.weight.detach().double(), old, ridge)
        module.weight.copy_(solved.gain.to(module.weight))
        if bias is not None and solved.shift is not None:
            bias.copy_(solved.shift.to(bias))
        return [Fitted(site.name, lines.count, solved.before, solved.after)]

    # ---- the check

    def _error(self, sites: Sequence[StageSite]) -> float:
        """Squared distance to the source on a few examples as a share of the source's squares; infinite on an overflow."""
        distance = squares = 0.0
        for batch, wanted in self._wanted:
            found = output_of(self.target, batch)
            if found.shape != wanted.shape:  # a narrower model without a head, or one with other labels
                found, wanted = self._streams(sites, batch) or (found, found)
            distance += float((found - wanted).pow(2).sum())
            squares += float(wanted.pow(2).sum())
        distance, squares = total(torch.tensor([distance, squares], dtype=torch.float64)).tolist()
        error = distance / max(squares, 1e-30)
        return error if math.isfinite(error) else math.inf

    def _streams(self, sites: Sequence[StageSite], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """The output of the last layer, and what it is to be; None where it is not known what stands where in it."""
        site = next((s for s in reversed(sites) if s.landing is not None), None)
        if site is None or site.landing is None:
            return None
        with (
            Runner(self.target, self.target_anatomy) as target,
            Runner(self.source, self.source_anatomy) as source,
        ):
            (ours,) = target.capture(0, batch, outputs=[site.landing.layer]).outputs[site.landing.layer]
            (theirs,) = source.capture(0, batch, outputs=[site.goal]).outputs[site.goal]
        kept = self.selection.of_stage(site.stage)
        return site.landing.stream(ours).double(), kept.residual(site.landing.stream(theirs)).double()


def _read(module: nn.Module, given: Tensor) -> Tensor:
    """What a matrix reads, (tokens, inputs): of a convolution the patch under each place of its output."""
    if not isinstance(module, nn.Conv2d):
        return given.reshape(-1, given.shape[-1])
    taps: dict[str, Any] = {"dilation": module.dilation, "padding": module.padding, "stride": module.stride}
    patches = nn.functional.unfold(given, module.kernel_size, **taps)  # (examples, inputs, places)
    return patches.mT.reshape(-1, patches.shape[1])


def _grouped(sites: Sequence[StageSite]) -> Iterator[list[StageSite]]:
    """Groups of sites that are solved in one pass: queries, keys and values of a layer."""
    group: list[StageSite] = []
    for site in sites:
        together = group and all(s.before == site.before and s.info.role in _TOGETHER for s in (group[0], site))
        if group and not together:
            yield group
            group = []
        group.append(site)
    if group:
        yield group


__all__ = ["StageRefit"]
