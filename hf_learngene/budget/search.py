"""A search over widths, heads, ffn and layers for the sizes within a budget that leave the least measured error."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging
from transformers.utils.logging import is_progress_bar_enabled

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import FFN
from hf_learngene.budget.allocation import Allocation, Sizes, Trial
from hf_learngene.budget.count import parameter_count
from hf_learngene.budget.meter import Meter
from hf_learngene.budget.stage_fit import last_rank, searched_sizes
from hf_learngene.calibration.examples import BatchesOf, Examples, rows_of, tokens_shown
from hf_learngene.calibration.held_back import rows_in
from hf_learngene.calibration.weights import times_of
from hf_learngene.errors import CalibrationError, InvalidSizeError, RefitError
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.task import WIDTHS
from hf_learngene.pruning.activations import Runner
from hf_learngene.pruning.estimate import LONG, seconds_needed, spoken
from hf_learngene.pruning.moments import Moments
from hf_learngene.pruning.running import output_of
from hf_learngene.pruning.targets import heads_can_shrink, writer
from hf_learngene.state import without_autocast


logger = logging.get_logger(__name__)

SHARES = (0.75, 0.5, 0.25)  # of each size, at which its error is measured
TRIED = 3  # combinations that are pruned and measured before one is chosen
FITTED = 192  # examples that a trial is fitted on, at least
MEASURED = 3  # held-out batches that its error is measured on
STEPS, HEAD_STEPS = 24, 8  # the grid of a size, and of the size of heads, has about so many steps
FAILED = 1e6  # the error of a trial whose refit was refused: as bad as can be, and a number that can be interpolated

Shrink = Callable[[Mapping[str, int], Any], PreTrainedModel]


@without_autocast()
def allocated(
    model: PreTrainedModel,
    anatomy: Anatomy,
    meter: Meter,
    examples: Examples,
    fixed: Mapping[str, int],
    shrink: Shrink,
) -> Allocation:
    """The sizes within a budget that leave the least error, and that a stock config can say.

    Each size is pruned alone to three shares and its error measured (its sensitivity); the errors of a combination are predicted
    as their sum. The combinations of least predicted error are then pruned and measured, and the best of them is chosen.

    Args:
        model: the source.
        anatomy: its own.
        meter: the budget.
        examples: calibration examples; trials are fitted on some batches and measured on others.
        fixed: sizes by canonical name that the caller gave; they are kept.
        shrink: prunes to given sizes on given examples.

    Raises:
        InvalidSizeError: no combination is that small; names the smallest.
        CalibrationError: too few tokens to fit a trial on.
        RefitError: no combination within the budget can be refitted.
    """
    count = parameter_count(anatomy)
    free = _free(anatomy, fixed)
    combinations = _combinations(anatomy, fixed)
    check_within_reach(anatomy, meter, fixed)
    rest, places = _split(examples.num_batches)
    fitting, held = _Fitting(model, anatomy, examples, rest), examples.part(places)
    wanted = [output_of(model, batch) for batch in held.batches()]

    pruned = (*WIDTHS, "mlp_ratio", "num_hidden_layers")
    counted = {n: v for n, v in fixed.items() if n.partition(".")[0] not in pruned}

    refused: list[RefitError] = []

    def trial(sizes: Sizes, error: float) -> Trial:
        full = _full(anatomy, sizes)
        return Trial(sizes, count(full), meter.estimate(full), error)

    def measured(sizes: Sizes, fit: BatchesOf) -> Trial:
        # other labels or another vocabulary would give an output that cannot be compared
        try:
            made = shrink(_full(anatomy, {n: v for n, v in sizes.items() if n not in counted}), fit)
        except RefitError as error:
            refused.append(error)
            return trial(sizes, FAILED)
        found = [output_of(made, batch) for batch in held.batches()]
        if found[0].shape != wanted[0].shape:  # a model without a head: what a linear readout could not recover
            readout = Moments()
            for batch in fit.batches():
                readout.add(output_of(made, batch), output_of(model, batch), times_of(batch))
            weight, bias = readout.solve(torch.zeros(wanted[0].shape[-1], found[0].shape[-1]), True)
            found = [f @ weight.T + cast(Tensor, bias) for f in found]
        return trial(sizes, _distance(found, wanted))

    hidden = not is_progress_bar_enabled()
    levels = {n: _levels(options, anatomy.sizes[n]) for n, options in free.items()}
    alone = {name: [_whole(anatomy, fixed, {name: size}) for size in steps] for name, steps in levels.items()}
    given = _whole(anatomy, fixed, {})
    shrunk = any(v != anatomy.sizes.get(n) for n, v in fixed.items() if n not in counted)
    total = sum(map(len, alone.values())) + shrunk + TRIED
    fit = fitting.on(max(_rank(anatomy, s) for s in (given, *itertools.chain(*alone.values()))))
    axes: list[Trial] = []
    curves: dict[str, list[tuple[int, float]]] = {}
    seconds = total * seconds_needed(model, fit)
    if seconds >= LONG:
        logger.warning("Choosing sizes tries %d smaller models, which takes about %s.", total, spoken(seconds))
    with tqdm(total=total, desc="measuring sizes", disable=hidden) as bar:
        # what is given by name costs in every trial: counted anew for each size, it would favour shrinking one alone
        least_error = 0.0
        if shrunk:
            least_error = measured(given, fit).error
            bar.update()
        for name, trials in alone.items():
            curves[name] = [(anatomy.sizes[name], 0.0)]
            for sizes in trials:
                axes.append(measured(sizes, fit))
                curves[name].append((sizes[name], max(0.0, axes[-1].error - least_error)))
                bar.update()
        within = _Within(meter, anatomy)
        affordable = [c for c in combinations if within.by_estimate(c)]

        def promise(sizes: Sizes) -> tuple[float, float]:
            return sum(_between(curve, sizes[n]) for n, curve in curves.items()), -meter.estimate(
                _full(anatomy, sizes)
            )

        promising = _different(sorted(affordable, key=promise), list(free), anatomy.sizes, within)
        if not promising:
            raise InvalidSizeError(
                f"Nothing of `{anatomy.model_type}` that the search looks at is within {meter.told(meter.ceiling)} once it is "
                "built; give a larger budget, or sizes by name."
            )
        fit = fitting.on(max(_rank(anatomy, s) for s in promising))
        tried: list[Trial] = []
        for sizes in promising:
            found = measured(sizes, fit)
            tried.append(dataclasses.replace(found, amount=within.exact(sizes)))
            bar.update()
    tried.sort(key=lambda t: t.error)
    if tried[0].error >= FAILED and refused:
        raise refused[-1]
    best = tried[0].sizes
    own = Trial(given, anatomy.num_parameters, meter.source, 0.0)
    return Allocation(best, _full(anatomy, best), tuple(axes), tuple(tried), own, meter.budget.quantity)


class _Within:
    """Whether sizes are within a budget, and how much they have: as they are built, not as it is estimated."""

    def __init__(self, meter: Meter, anatomy: Anatomy) -> None:
        self.meter, self.anatomy = meter, anatomy
        self._off = 1.0  # how far an estimate was below
        self._known: dict[tuple[tuple[str, int], ...], float] = {}

    def by_estimate(self, sizes: Sizes) -> bool:
        return self.meter.estimate(_full(self.anatomy, sizes)) * self._off <= self.meter.ceiling

    def exact(self, sizes: Sizes) -> float:
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            full = _full(self.anatomy, sizes)
            self._known[key] = self.meter.exact(full)
            self._off = max(self._off, self._known[key] / self.meter.estimate(full))
        return self._known[key]

    def __call__(self, sizes: Sizes) -> bool:
        return self.by_estimate(sizes) and self.exact(sizes) <= self.meter.ceiling


def check_within_reach(anatomy: Anatomy, budget: Meter, fixed: Mapping[str, int]) -> None:
    """Refuses a budget below all that the search looks at.

    Raises:
        InvalidSizeError: names the smallest.
    """
    least = _least(anatomy, budget, fixed)
    if least > budget.ceiling:
        raise InvalidSizeError(
            f"A quarter of every size of `{anatomy.model_type}` leaves {budget.told(least)} (embeddings count), more than the "
            f"{budget.told(budget.ceiling)} asked for. The smallest budget for calibration is {budget.told(least)}; sizes given "
            "by name go further down."
        )


def _least(anatomy: Anatomy, budget: Meter, fixed: Mapping[str, int]) -> float:
    return min(budget.estimate(_full(anatomy, c)) for c in _combinations(anatomy, fixed))


def _combinations(anatomy: Anatomy, fixed: Mapping[str, int]) -> list[Sizes]:
    """Every combination of the sizes that are not fixed."""
    free = _free(anatomy, fixed)
    return [_whole(anatomy, fixed, dict(zip(free, c, strict=True))) for c in itertools.product(*free.values())]


def _free(anatomy: Anatomy, fixed: Mapping[str, int]) -> dict[str, list[int]]:
    """The grids of the sizes that the caller left open."""
    return {n: options for n, options in _axes(anatomy, fixed).items() if n not in fixed and len(options) > 1}


def _axes(anatomy: Anatomy, fixed: Mapping[str, int]) -> dict[str, list[int]]:
    """The grid of each size that can be chosen, the source's first.

    Heads become smaller, which costs less than to have fewer of them (docs/calibrated.md), where the family and the caller leave
    their size open.
    """
    sizes = anatomy.sizes
    if anatomy.num_stages:
        return {name: _down(size, step) for name, (size, step) in searched_sizes(anatomy).items()}
    width, head = sizes["hidden_size"], sizes.get("head_dim", 1)
    own_heads = anatomy.head_dim_honoured and not anatomy.rotary
    step = max(1, width // STEPS) if own_heads else head
    found = {"hidden_size": _down(width, step)}
    if own_heads and "num_attention_heads" in sizes:
        heads = sizes["num_attention_heads"]
        if heads_can_shrink(anatomy) and "head_dim" not in fixed:
            found["head_dim"] = _down(head, max(1, head // HEAD_STEPS))
        else:
            found["num_attention_heads"] = _down(heads, heads // (sizes.get("num_key_value_heads") or heads))
    ffn = "mlp_ratio" if "mlp_ratio" in sizes else "intermediate_size"
    if ffn in sizes:
        found[ffn] = _down(sizes[ffn], max(1, sizes[ffn] // STEPS))
    if not anatomy.shared_layers:
        found["num_hidden_layers"] = _down(anatomy.num_layers, 1)
    return found


def _down(size: int, step: int) -> list[int]:
    """From `size` down to a quarter of it."""
    least = max(1, math.ceil(size * min(SHARES)))
    return [size, *(n for n in range(size - size % step, 0, -step) if least <= n < size)]


def _levels(options: Sequence[int], size: int) -> list[int]:
    """The options nearest to the shares at which errors are measured."""
    return sorted({min(options[1:], key=lambda n: abs(n - share * size)) for share in SHARES}, reverse=True)


def _whole(anatomy: Anatomy, fixed: Mapping[str, int], chosen: Mapping[str, int]) -> Sizes:
    """Every size that the search sees to, so that none follows another's change by proportion."""
    names = dict.fromkeys(_axes(anatomy, fixed))
    if "head_dim" in names:
        names["num_attention_heads"] = None
    return {n: anatomy.sizes[n] for n in names} | dict(fixed) | dict(chosen)


def _full(anatomy: Anatomy, sizes: Mapping[str, int]) -> Sizes:
    """Sizes with the heads that follow the width, or the head size where they do not."""
    head = anatomy.sizes.get("head_dim", 1)
    full = dict(sizes)
    if anatomy.num_stages:
        return full
    if "num_attention_heads" not in full and "num_attention_heads" in anatomy.sizes:
        full["num_attention_heads"] = max(1, full["hidden_size"] // head)
    if anatomy.head_dim_honoured:
        full.setdefault("head_dim", head)
    return full


def _rank(anatomy: Anatomy, sizes: Mapping[str, int]) -> int:
    """The rank of the largest least-squares problem in pruning to these sizes: at least so many tokens are needed."""
    if anatomy.num_stages:
        return last_rank(anatomy, sizes)
    units = next((d.size // d.parts for t in anatomy.tensors.values() for d in t.dims if d.axis == FFN), 0)
    head = anatomy.sizes.get("head_dim", 1)

    def ranks(of: Mapping[str, int]) -> tuple[int, int, int]:
        ffn = of["hidden_size"] * of["mlp_ratio"] if "mlp_ratio" in of else of.get("intermediate_size", 0)
        return of["hidden_size"], of.get("num_attention_heads", 0) * of.get("head_dim", head), ffn

    old, new = ranks(anatomy.sizes), ranks({**anatomy.sizes, **_full(anatomy, sizes)})
    scale = 1, 1, units / max(1, old[2])  # a gated ffn has fewer units than the ratio says
    return max((round(n * s) for o, n, s in zip(old, new, scale, strict=True) if n < o), default=0)


def _split(count: int) -> tuple[list[int], list[int]]:
    """(batches to fit on, held-out batches), both spread over all: data sets are often sorted. A single batch is both."""
    if count == 1:
        return [0], [0]
    held = uniform_indices(count, max(1, min(MEASURED, count // 3))).tolist()
    return [n for n in range(count) if n not in held], held


class _Fitting:
    """A choice of batches to fit trials on: as many as the rank asks for.

    Args:
        model, anatomy: the source, which says what is a token.
        examples: calibration examples.
        numbers: batches to choose from.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, examples: Examples, numbers: list[int]) -> None:
        self.model, self.anatomy, self.examples, self.numbers = model, anatomy, examples, numbers
        self._counted: dict[int, int] = {}

    def on(self, rank: int) -> BatchesOf:
        """Batches of at least `FITTED` examples, spread evenly, and more until they hold `rank` tokens.

        Raises:
            CalibrationError: all of them hold fewer.
        """
        info = writer(self.anatomy.parts[-1], 0, "ffn_out")
        every = len(self.numbers)
        for count in range(1, every + 1):
            chosen = [self.numbers[i] for i in uniform_indices(every, count).tolist()]
            if count < every and sum(map(rows_in, self.examples.lent(chosen))) < FITTED:
                continue
            if info is None or (found := sum(self._tokens(info.module, n) for n in chosen)) >= rank:
                return self.examples.part(chosen)
        raise CalibrationError(
            f"Sizes are tried out on part of the calibration examples, and measured on the others: {found} tokens to fit on "
            f"cannot tell {rank} units or directions apart. Give more examples, so that {rank} tokens at least are fitted on (a "
            "few thousand are better), or sizes by name: those are fitted on all examples."
        )

    def _tokens(self, module: str, number: int) -> int:
        """Number of tokens that reach a layer in one batch, padding left out."""
        if number not in self._counted:
            batch = next(self.examples.batches([number]))
            with Runner(self.model, self.anatomy) as runner:
                values = runner.capture(number, batch, inputs=[module]).inputs[module]
            self._counted[number] = sum(len(rows_of(v, tokens_shown(batch))) for v in values)
        return self._counted[number]


def _distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    a, b = torch.cat(list(found)), torch.cat(list(wanted))
    return float((a - b).pow(2).sum() / (b - b.mean(0)).pow(2).sum().clamp_min(1e-30))


def _between(curve: Sequence[tuple[int, float]], size: int) -> float:
    """The error at a size between two measured ones, interpolated linearly in log size."""
    for (high, above), (low, below) in itertools.pairwise(curve):
        if size >= low:
            place = math.log(high / size) / math.log(high / low)
            return above + place * (below - above)
    return curve[-1][1]


def _different(
    candidates: Sequence[Sizes], names: Sequence[str], old: Mapping[str, int], allowed: Callable[[Sizes], bool]
) -> list[Sizes]:
    """The first few allowed candidates that differ from one another by more than an eighth of some size."""
    chosen: list[Sizes] = []
    for sizes in candidates:
        if all(any(abs(sizes[n] - c[n]) > old[n] / 8 for n in names) for c in chosen) and allowed(sizes):
            chosen.append(sizes)
        if len(chosen) == TRIED:
            break
    return chosen


__all__ = ["Allocation", "Trial", "allocated"]
