"""Least squares over layers that share parameters: sweep after sweep, from what a model's own earlier layers give them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.calibration.few import few
from hf_learngene.calibration.shares import total
from hf_learngene.calibration.weights import times_of
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.maps.selection import Selection
from hf_learngene.pruning.activations import Runner
from hf_learngene.pruning.moments import RIDGE, Moments, scarcity
from hf_learngene.pruning.refit import Refit
from hf_learngene.pruning.sites import RefitSite, sites_of
from hf_learngene.state import evaluating


SWEEPS = 6  # over layers that share parameters, at most: each changes what the later ones of them are given
GAIN = 0.97  # of the distance that the sweep before left, what one leaves at most where another follows
CHECKED = 64  # examples on which a sweep is held against the last one
TOGETHER = ("q", "k", "v")  # roles that are fitted in one pass: they read one input
TINY = 1e-30


class Sweeps(ABC):
    """A model whose layers share parameters, brought to what another of its shape computes on examples.

    Blocks of layers that share parameters are fitted one after another, matrix by matrix. A matrix that writes the residual
    stream is fitted to what makes the stream there the other model's, so that errors of earlier layers are mended by later
    ones; every other one to the other model's outputs. A bias is fitted with its matrix; norms stay. What is best for the
    stream behind a block is kept, so that no block is worse than it was.

    Args:
        model: it is changed in place.
        source: the model that it is brought to.
        anatomy: of both.
        examples: what is looked at.
        held: others, by which it is told what is better.
        ridge: how strongly weights are kept where the examples say little.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        source: PreTrainedModel,
        anatomy: Anatomy,
        examples: Batches,
        held: Batches,
        ridge: float = RIDGE,
    ) -> None:
        self.model, self.source, self.anatomy = model, source, anatomy
        self.examples, self.ridge = examples, ridge
        layers = tuple(range(anatomy.num_layers))
        self._refit = Refit(source, anatomy, model, anatomy, Selection(layers), examples)
        self._held = few(held, source, CHECKED)
        first = next(examples.batches())
        self._sites = [s for s in sites_of(model, anatomy, layers, len(layers), first) if not s.is_norm]
        if not any(s.layer == layers[-1] and s.norm_after for s in self._sites):
            raise UnsupportedFamilyError(
                f"No matrix of a `{anatomy.model_type}` is known to write what a norm behind its last layer reads, so nothing "
                "can be fitted on examples: leave calibration out."
            )

    # ---- for subclasses

    @abstractmethod
    def blocks(self) -> list[list[int]]:
        """Layers that share parameters, the first ones first."""

    @abstractmethod
    def fit(self, template: str, moments: Mapping[int, Moments]) -> None:
        """Fits a matrix, and its bias, in the layers of a block, and writes it into the model."""

    @abstractmethod
    def state(self, block: Sequence[int]) -> dict[Tensor, Tensor]:
        """What is fitted in a block, each beside a copy of it."""

    @abstractmethod
    def restore(self, state: Mapping[Tensor, Tensor]) -> None:
        """Brings that back, into the model too."""

    # ---- the work

    @torch.no_grad()
    def run(self) -> None:
        """Fits everything, block by block, and then the matrices behind the layers, a classifier's say."""
        blocks = self.blocks()
        bar = tqdm(total=sum(map(_most, blocks)), desc="fitting")
        batches, last = self.examples.batches, self.anatomy.num_layers - 1
        with (
            bar,
            evaluating(self.source, self.model),
            Runner(self.source, self.anatomy) as theirs,
            Runner(self.model, self.anatomy) as ours,
        ):
            for number, block in enumerate(blocks):
                sites = [s for s in self._sites if s.layer in block]
                theirs.cache_prefix(block[0], batches())
                ours.cache_prefix(block[0], batches())
                ahead = blocks[number + 1][0] if number + 1 < len(blocks) else last + 1
                norms = list(dict.fromkeys(s.norm_after[1] for s in sites if s.norm_after))
                theirs.remember(batches(), norms, [s.source for s in sites], ahead)
                self._block(block, sites, ours, theirs, bar)
            theirs.cache_prefix(last + 1, batches())
            ours.cache_prefix(last + 1, batches())
            self._behind(ours, theirs)

    def _block(
        self, block: Sequence[int], sites: Sequence[RefitSite], ours: Runner, theirs: Runner, bar: tqdm
    ) -> None:
        last = best = self.error(max(block))
        kept = self.state(block)
        most = _most(block)
        for sweep in range(1, most + 1):
            for group in _groups(sites):
                found = self._moments(group, ours, theirs)
                for template in dict.fromkeys(s.weight.template for s in group):
                    mine = {cast(int, s.layer): found[s.name] for s in group if s.weight.template == template}
                    if all(m.count for m in mine.values()):
                        self.fit(template, mine)
            error = self.error(max(block))
            if error < best:
                best, kept = error, self.state(block)
            # the first one comes from weights that do not belong together
            done = sweep == most or (sweep > 1 and error > GAIN * last)
            # what is left out counts with the last: the bar tells by its latest step how long the rest will take
            bar.update(most - sweep + 1 if done else 1)
            if done:
                break
            last = error
        self.restore(kept)

    def _moments(self, sites: Sequence[RefitSite], ours: Runner, theirs: Runner) -> dict[str, Moments]:
        sums = {s.name: Moments() for s in sites}
        for name, x, y, times in self._pairs(self.examples.batches(), sites, ours, theirs):
            sums[name].add(x, y, times)
        return sums

    def _pairs(
        self, batches: Iterable[Mapping[str, Tensor]], sites: Sequence[RefitSite], ours: Runner, theirs: Runner
    ) -> Iterator[tuple[str, Tensor, Tensor, int]]:
        """What the model's own matrices are given, and are to make of it, token by token, and how often these tokens count."""
        after = [s.norm_after for s in sites if s.norm_after]
        writers = [s.name for s in sites if s.norm_after]
        for number, batch in enumerate(batches):
            mine = ours.capture(number, batch, [*(s.name for s in sites), *(a[0] for a in after)], writers)
            other = theirs.capture(number, batch, [a[1] for a in after], [s.source for s in sites])
            shown = tokens_shown(batch)
            for site in sites:
                for x, y in self._refit.pairs(site, mine, other):
                    yield site.name, rows_of(x, shown), rows_of(y, shown), times_of(batch)

    def _behind(self, ours: Runner, theirs: Runner) -> None:
        for site in (s for s in self._sites if s.after_layers and self.is_free(s.weight.name)):
            moments = self._moments([site], ours, theirs)[site.name]
            if not moments.count:
                continue
            parameters = list(self.model.get_submodule(site.name).parameters())  # weight, and bias if there is one
            before, kept = self._distance(site), [p.clone() for p in parameters]
            ridge = self.ridge * scarcity(parameters[0].shape[1], moments.count)
            solved = moments.solve(parameters[0].double(), len(parameters) > 1, ridge)
            for parameter, value in zip(parameters, solved, strict=False):
                parameter.copy_(cast(Tensor, value))
            if self._distance(site) >= before:
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)

    def _distance(self, site: RefitSite) -> float:
        """Squared distance of what a matrix behind the layers gives to what it is to give, on examples that are held back."""
        module, lost = self.model.get_submodule(site.name), torch.zeros((), dtype=torch.float64)
        with Runner(self.source, self.anatomy) as theirs, Runner(self.model, self.anatomy) as ours:
            for _, x, y, _ in self._pairs(self._held, [site], ours, theirs):
                lost += (module(x.to(self.model.dtype)) - y).pow(2).sum().double().cpu()
        return float(total(lost))

    def is_free(self, name: str) -> bool:
        """Whether a matrix behind the layers may change."""
        return True

    def error(self, layer: int) -> float:
        """Squared distance of the stream behind a layer to the other model's, as a share of its spread, on examples held back."""
        writers = [s.norm_after for s in self._sites if s.norm_after and s.layer is not None and s.layer <= layer]
        name, source = writers[-1]
        sums: list[Tensor] = []
        with Runner(self.source, self.anatomy) as theirs, Runner(self.model, self.anatomy) as ours:
            for number, batch in enumerate(self._held):
                shown = tokens_shown(batch)
                mine, other = ours.capture(number, batch, [name]), theirs.capture(number, batch, [source])
                for x, y in zip(mine.inputs[name], other.inputs[source], strict=False):
                    x, y = rows_of(x, shown).double().cpu(), rows_of(y, shown).double().cpu()
                    found = [y.new_tensor([len(y)]), (x - y).pow(2).sum()[None], y.pow(2).sum()[None], y.sum(0)]
                    sums.append(torch.cat(found))
        width = self.anatomy.sizes["hidden_size"]
        count, distance, squares, *first = total(sum(sums, torch.zeros(3 + width, dtype=torch.float64))).tolist()
        return distance / max(TINY, squares - sum(v * v for v in first) / max(1.0, count))


def _most(block: Sequence[int]) -> int:
    """How often a block is gone over at most: a layer by itself is fitted at once."""
    return SWEEPS if len(block) > 1 else 1


def _groups(sites: Sequence[RefitSite]) -> list[list[RefitSite]]:
    """Sites that are fitted in one pass, in order of execution: a matrix in all layers; queries, keys and values together."""
    groups: dict[str, list[RefitSite]] = {}
    for site in sites:
        groups.setdefault("qkv" if site.weight.role in TOGETHER else site.weight.template, []).append(site)
    return list(groups.values())


__all__ = ["Sweeps"]
