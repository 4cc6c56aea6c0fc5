"""The refit of a pruned model: module by module, least squares against the source's activations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.calibration.store import Store
from hf_learngene.calibration.weights import times_of
from hf_learngene.maps.selection import Selection
from hf_learngene.pruning.activations import Activations, Runner
from hf_learngene.pruning.correspondence import Correspondence
from hf_learngene.pruning.gains import Lines
from hf_learngene.pruning.moments import RIDGE, Moments, normalised, precise, scarcity
from hf_learngene.pruning.refit_check import RefitCheck, nearer
from hf_learngene.pruning.sites import RefitSite, sites_of
from hf_learngene.state import evaluating


@dataclass(frozen=True)
class Fitted:
    """One step of the refit, and what it left.

    Attributes:
        name: the module.
        tokens: how many it was fitted on.
        before: mean squared distance to what the source does there, as a share of its spread, before the step.
        after: the same after it.
    """

    name: str
    tokens: int
    before: float
    after: float


class Refit:
    """Least squares that bring a pruned model, module by module, back to what its source does.

    Every matrix that writes the residual stream is solved for what makes the stream there the source's, so that errors of earlier
    layers are mended by later ones; every other matrix for the source's own outputs, from the inputs that the pruned model
    gives it.

    Args:
        source, source_anatomy: the model that was pruned, and its anatomy.
        target, target_anatomy: the pruned model, which is changed in place, and its anatomy.
        selection: what is kept of the source.
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
        self._target_of = Correspondence(source, source_anatomy, selection)
        self._centred = {n.name: n.centred for n in target_anatomy.norms}

    @torch.no_grad()
    def run(self, disable_progress: bool = False) -> list[Fitted]:
        """Refits everything, in order of execution, and checks the model on a few of its examples.

        Where the refit leaves it further from the source than it was, it is done again with a larger ridge.

        Raises:
            RefitError: no ridge helps.
        """
        with evaluating(self.source, self.target), Store() as store:
            first = next(self.examples.batches())
            sites = sites_of(
                self.target,
                self.target_anatomy,
                self.selection.layers,
                self.source_anatomy.num_layers,
                first,
                self.selection.merged,
            )
            writer = next((s for s in reversed(sites) if s.norm_after and s.layer is not None), None)
            check = RefitCheck(self._target_of, self.target, self.target_anatomy, self.examples, writer)
            refitted = {f"{s.name}.{n}": p for s in sites for n, p in self._module(s).named_parameters()}
            return nearer(
                lambda ridge: self._fit(list(_grouped(sites)), ridge, disable_progress),
                check.error,
                refitted,
                self.ridge,
                store,
                "method='minitron' chooses by examples and refits nothing",
            )

    def _module(self, site: RefitSite) -> Any:
        return self.target.get_submodule(site.name)

    def _fit(self, groups: Sequence[Sequence[RefitSite]], ridge: float, disable_progress: bool) -> list[Fitted]:
        """One refit of everything."""
        report: list[Fitted] = []
        current: int | None = None
        batches = self.examples.batches
        with (
            Runner(self.source, self.source_anatomy) as source,
            Runner(self.target, self.target_anatomy) as target,
        ):
            for group in tqdm(groups, desc="calibrating", disable=disable_progress):
                site = group[0]
                if site.layer is not None and site.source_layer is not None:
                    target.cache_prefix(site.layer, batches())
                    source.cache_prefix(site.source_layer, batches())
                    if site.layer != current:
                        current = site.layer
                        inside = [s for g in groups for s in g if s.layer == current]
                        norms = list(dict.fromkeys(s.norm_after[1] for s in inside if s.norm_after))
                        outputs = list(dict.fromkeys(n for s in inside for n in (s.source, *s.beside)))
                        following = next((s.source_layer for g in groups for s in g if s.layer == current + 1), None)
                        ahead = self.source_anatomy.num_layers if following is None else following
                        source.remember(batches(), norms, outputs, ahead)
                elif site.after_layers:
                    target.cache_prefix(self.target_anatomy.num_layers, batches())
                    source.cache_prefix(self.source_anatomy.num_layers, batches())
                if site.is_norm:
                    report += self._norm(site, source, target, ridge)
                else:
                    report += self._matrices(group, source, target, ridge)
                    target.settle(*(s.name for s in group))
        return report

    # ---- matrices

    def _matrices(self, group: Sequence[RefitSite], source: Runner, target: Runner, ridge: float) -> list[Fitted]:
        group = [s for s in group if self._target_of.has_rows(s)]
        if not group:
            return []
        moments, together = [Moments() for _ in group], False
        for number, batch in enumerate(self.examples.batches()):
            after = [s.norm_after for s in group if s.norm_after]
            ours = target.capture(
                number,
                batch,
                inputs=[*(s.name for s in group), *(a[0] for a in after)],
                outputs=[s.name for s in group if s.norm_after],
            )
            theirs = source.capture(
                number,
                batch,
                inputs=[a[1] for a in after],
                outputs=[n for s in group for n in (s.source, *s.beside)],
            )
            shown = tokens_shown(batch)
            pairs = [list(self.pairs(site, ours, theirs)) for site in group]
            together = _one_input(pairs)
            if together:  # the products of the inputs are the same for all
                pairs = [[(calls[0][0], torch.cat([y for _, y in calls], -1)) for calls in zip(*pairs, strict=True)]]
            for mine, calls in zip(moments, pairs, strict=False):
                for x, y in calls:
                    mine.add(rows_of(x, shown), rows_of(y, shown), times_of(batch))
        if together and moments[0].count:
            ends = list(itertools.accumulate(self._module(s).weight.shape[0] for s in group))
            moments = [moments[0].of_outputs(a, b) for a, b in itertools.pairwise([0, *ends])]
        return [self._solve(site, mine, ridge) for site, mine in zip(group, moments, strict=True) if mine.count]

    def pairs(self, site: RefitSite, ours: Activations, theirs: Activations) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, wanted outputs) of the target's matrix for each of its calls."""
        inputs = ours.inputs[site.name]
        if site.norm_after is not None:
            name, source = site.norm_after
            written, streams, wanted = ours.outputs[site.name], ours.inputs[name], theirs.inputs[source]
            # a norm behind a pooling sees something else
            if all(a.shape == b.shape for a, b in zip(written, streams, strict=False)):
                scale = self._layer_scale(site)
                for call, (x, out, stream, goal) in enumerate(zip(inputs, written, streams, wanted, strict=False)):
                    stream = precise(stream)
                    scale = scale.to(stream)
                    rest = stream - out * scale
                    if site.weight.role == "o":  # what comes later in the source, and at once in the target
                        goal = goal + self._target_of.added(site, theirs.outputs, call)
                    goal = self.selection.residual(goal).to(stream)
                    if site.skips:
                        goal = _as_norms_see(goal, stream, self._centred[name])
                    yield x, (goal - rest) / scale
                return
        for x, y in zip(inputs, self._target_of.outputs(site, theirs.outputs), strict=False):
            yield x, self._target_of.rows(site, y)

    def _layer_scale(self, site: RefitSite) -> Tensor:
        name = site.weight.scaled_by
        if not name:
            return torch.ones((), dtype=torch.float64)
        scale = self.target.get_parameter(name.format(site.layer)).detach().double()
        return torch.where(scale.abs() < 1e-12, torch.ones_like(scale), scale)

    def _solve(self, site: RefitSite, moments: Moments, ridge: float) -> Fitted:
        module = self._module(site)
        weight, bias = module.weight.detach().double(), module.bias
        old = bias.detach().double() if bias is not None else None
        before = moments.error(weight, old)
        few = scarcity(weight.shape[1], moments.count)
        weight, solved = moments.solve(self._target_of.prior(site), bias is not None, few * ridge)
        module.weight.copy_(weight.to(module.weight))
        if bias is not None and solved is not None:
            bias.copy_(solved.to(bias))
        spread = moments.spread().clamp_min(1e-30)
        after = moments.error(weight, solved)
        return Fitted(site.name, moments.count, float(before / spread), float(after / spread))

    # ---- norms, where they have gains of their own

    def _norm(self, site: RefitSite, source: Runner, target: Runner, ridge: float) -> list[Fitted]:
        fewer = self.target_anatomy.num_layers < self.source_anatomy.num_layers
        moved = self.selection.coordinates is not None or self.selection.gains
        if not moved and not (self.source_anatomy.post_norm and fewer):
            return []
        module = self._module(site)
        info = next(n for n in self.target_anatomy.norms if n.name == site.name)
        undecoded = self._target_of.decoder_map(site)
        lines = Lines()
        for number, batch in enumerate(self.examples.batches()):
            ours = target.capture(number, batch, inputs=[site.name])
            theirs = source.capture(number, batch, outputs=[site.source])
            shown = tokens_shown(batch)
            for x, y in zip(ours.inputs[site.name], theirs.outputs[site.source], strict=False):
                wanted = precise(y) @ undecoded.to(precise(y)) if undecoded is not None else self.selection.residual(y)
                z = rows_of(normalised(module, x, info.centred), shown)
                lines.add(z, rows_of(wanted, shown), times_of(batch))
        bias = getattr(module, "bias", None)
        old = bias.detach().double() if bias is not None else None
        solved = lines.solve(module.weight.detach().double(), old, ridge)
        module.weight.copy_(solved.gain.to(module.weight))
        if bias is not None and solved.shift is not None:
            bias.copy_(solved.shift.to(bias))
        return [Fitted(site.name, lines.count, solved.before, solved.after)]


def _one_input(pairs: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> bool:
    """Whether several sites read the very same tensors, call by call."""
    first = [x for x, _ in pairs[0]]
    others = [[x for x, _ in calls] for calls in pairs[1:]]
    return bool(others) and all(
        len(xs) == len(first) and all(a is b for a, b in zip(xs, first, strict=True)) for xs in others
    )


def _as_norms_see(goal: Tensor, given: Tensor, centred: bool) -> Tensor:
    """The `goal` brought to the scale and mean of `given`: a norm sees neither, so neither has to be reached."""
    mean = given.mean(-1, keepdim=True) if centred else torch.zeros_like(given[..., :1])
    goal = goal - goal.mean(-1, keepdim=True) if centred else goal
    length = goal.pow(2).sum(-1, keepdim=True).clamp_min(1e-30)
    along = (goal * (given - mean)).sum(-1, keepdim=True) / length
    least = 0.1 * ((given - mean).pow(2).sum(-1, keepdim=True) / length).sqrt()
    return goal * torch.maximum(along, least) + mean


def _grouped(sites: Sequence[RefitSite]) -> Iterator[list[RefitSite]]:
    """Groups of sites that can be solved in one pass: queries, keys and values of a layer, which read one input."""
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
