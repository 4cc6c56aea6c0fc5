"""Which layers are kept: those without which the model's output changes most, measured on calibration examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.few import ENOUGH, few
from hf_learngene.calibration.shares import decided, total
from hf_learngene.pruning.merging import side_by_side
from hf_learngene.pruning.without_layer import Suffixes
from hf_learngene.state import without_autocast


ROUNDS = 4  # in which layers leave
LEAVING = 64  # examples that are looked at for each of them, to see which leave
JOINING = 32  # to see which become one, which matters less
NOTHING = 1e-10  # of the output's squares: what a layer that does nothing moves it by, which is rounding
TOKENS = 4096  # of the examples that are looked at to see which leave, together at most
USUAL, FEWEST = 12, 16  # depth from which on fewer examples are looked at, and how many at least


def kept_layers(
    model: PreTrainedModel, anatomy: Anatomy, depth: int, examples: Batches, disable_progress: bool = False
) -> tuple[int, ...]:
    """Which layers stay: those without which the model's output changes most, measured one by one.

    The cheapest leave in a few rounds, each measured anew on the model without those that left before. In a stage of a
    hierarchy neighbours of two kinds (plain and shifted windows) leave together, so that each layer that stays keeps its turn;
    of an odd number the last layer leaves first. A first layer of another kind stays.

    Args:
        model: the source.
        anatomy: its own.
        depth: how many stay.
        examples: calibration examples; a few dozen, spread over all, are looked at.
        disable_progress: no progress bar.
    """
    left = set(leaving_layers(model, anatomy, depth, examples, disable_progress))
    return tuple(layer for layer in range(anatomy.num_layers) if layer not in left)


@torch.no_grad()
@without_autocast()
def leaving_layers(
    model: PreTrainedModel,
    anatomy: Anatomy,
    depth: int,
    examples: Batches,
    disable_progress: bool = False,
    rounds: int = ROUNDS,
) -> tuple[int, ...]:
    """The layers that leave until `depth` are left, in this order, in so many rounds; see `kept_layers`."""
    alive, left = list(range(anatomy.num_layers)), list[int]()
    leaving = len(alive) - depth
    tokens = (
        TOKENS if anatomy.stage is None else None
    )  # those of a later stage are far fewer than the patches of an image
    progress = tqdm(total=leaving, desc="choosing layers", disable=disable_progress)
    with (
        progress as bar,
        Suffixes(model, anatomy, _few(examples, model, anatomy.num_layers, LEAVING, tokens)) as suffixes,
    ):
        wanted = suffixes.leave()
        while len(alive) > depth:
            groups = _that_may_leave(alive, anatomy, len(alive) - depth)
            costs = [_cost(suffixes, group, wanted) for group in groups] if len(groups) > 1 else [0.0]
            portion = min(len(alive) - depth, -(-leaving // rounds))
            out = list[int]()
            for place in sorted(range(len(groups)), key=costs.__getitem__):
                if len(out) < portion and not set(groups[place]) & set(out):
                    out += groups[place]
            alive = [i for i in alive if i not in out]
            left += out
            if len(alive) > depth:
                suffixes.leave(*out)
            bar.update(len(out))
    return decided(tuple(left))


@torch.no_grad()
@without_autocast()
def joined_layers(
    model: PreTrainedModel, anatomy: Anatomy, depth: int, examples: Batches, disable_progress: bool = False
) -> dict[int, tuple[int, ...]]:
    """Which layers become one of `depth`, in order, by the first of each.

    Layers that do nothing leave first. Of the others, those are put together that do well together, by what the model's output
    loses without each.

    Args:
        model: the source.
        anatomy: its own.
        depth: how many there are to be.
        examples: calibration examples; a few dozen, spread over all, are looked at.
        disable_progress: no progress bar.
    """
    alive = list(range(anatomy.num_layers))
    with Suffixes(model, anatomy, _few(examples, model, anatomy.num_layers, JOINING, ENOUGH)) as suffixes:
        wanted = suffixes.leave()
        nothing = NOTHING * _over_processes(sum(float(w.pow(2).sum()) for w in wanted))
        while True:
            shown = tqdm(alive, desc="choosing layers", disable=disable_progress)
            costs = [_cost(suffixes, (layer,), wanted) for layer in shown]
            least = min(range(len(alive)), key=costs.__getitem__)
            if len(alive) == depth or costs[least] > nothing:
                break
            suffixes.leave(alive.pop(least))
    groups = side_by_side(costs, depth)
    return {alive[first]: tuple(alive[i] for i in layers) for first, layers in groups.items()}


def _that_may_leave(alive: Sequence[int], anatomy: Anatomy, leaving: int) -> list[tuple[int, ...]]:
    """Layers that may leave at once: as many neighbours as alternate, and of what that does not divide the last ones."""
    rest = leaving % anatomy.period
    if rest:
        return [tuple(alive[-rest:])]
    starts = range(anatomy.lead, len(alive) - anatomy.period + 1)
    return [tuple(alive[i : i + anatomy.period]) for i in starts]


def _cost(suffixes: Suffixes, layers: Sequence[int], wanted: Sequence[Tensor]) -> float:
    distances = (float((f - w).pow(2).sum()) for f, w in zip(suffixes.without(*layers), wanted, strict=True))
    return _over_processes(sum(distances))


def _over_processes(value: float) -> float:
    return float(total(torch.tensor(value, dtype=torch.float64)))


def _few(
    examples: Batches, model: PreTrainedModel, depth: int, most: int, tokens: int | None
) -> list[dict[str, Tensor]]:
    """A few examples, spread over all: data sets are often sorted by their labels.

    Each of the layers is left out by itself: with fewer examples in deeper models, or of many tokens each, the cost stays a
    few forward passes.
    """
    wanted = max(FEWEST, most * USUAL // max(USUAL, depth))
    return few(examples, model, wanted, tokens)
