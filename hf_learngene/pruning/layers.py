"""Which layers are kept: those without which the model's output changes most, measured on calibration examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.pruning.activations import without_autocast
from hf_learngene.pruning.suffix import Suffixes


ROUNDS = 4  # in which layers leave
LAYER_EXAMPLES, LAYER_PLACES = 64, 8  # that are looked at for each of them, and batches that they are taken from
USUAL, FEWEST = 12, 16  # depth from which on fewer examples are looked at, and how many at least


@torch.no_grad()
@without_autocast()
def kept_layers(
    model: PreTrainedModel, anatomy: Anatomy, depth: int, examples: Batches, disable_progress: bool = False
) -> tuple[int, ...]:
    """Which layers stay: those without which the model's output changes most, measured one by one.

    The cheapest leave in a few rounds, each measured anew on the model without those that left before.

    Args:
        model: the source.
        anatomy: its own.
        depth: how many stay.
        examples: calibration examples; a few dozen, spread over all, are looked at.
        disable_progress: no progress bar.
    """
    alive = list(range(anatomy.num_layers))
    leaving = len(alive) - depth
    progress = tqdm(total=leaving, desc="choosing layers", disable=disable_progress)
    with progress as bar, Suffixes(model, anatomy, _few(examples, anatomy.num_layers)) as suffixes:
        wanted = suffixes.leave()
        while len(alive) > depth:
            costs = [_cost(suffixes, layer, wanted) for layer in alive]
            portion = min(len(alive) - depth, -(-leaving // ROUNDS))
            order = sorted(range(len(alive)), key=lambda i: costs[i])
            out = {alive[i] for i in order[:portion]}
            alive = [i for i in alive if i not in out]
            if len(alive) > depth:
                suffixes.leave(*out)
            bar.update(portion)
    return tuple(alive)


@torch.no_grad()
@without_autocast()
def layer_costs(
    model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool = False
) -> list[float]:
    """How far the model's output moves without each of its layers, on a few examples; a squared distance."""
    layers = tqdm(range(anatomy.num_layers), desc="choosing layers", disable=disable_progress)
    with Suffixes(model, anatomy, _few(examples, anatomy.num_layers)) as suffixes:
        wanted = suffixes.leave()
        return [_cost(suffixes, layer, wanted) for layer in layers]


def _cost(suffixes: Suffixes, layer: int, wanted: Sequence[Tensor]) -> float:
    return sum(float((f - w).pow(2).sum()) for f, w in zip(suffixes.without(layer), wanted, strict=True))


def _few(examples: Batches, depth: int) -> list[dict[str, Tensor]]:
    """A few examples of some batches, both spread over all: data sets are often sorted by their labels.

    Each of the layers is left out by itself: with fewer examples in deeper models the cost stays a few forward passes.
    """
    wanted = max(FEWEST, LAYER_EXAMPLES * USUAL // max(USUAL, depth))
    lengths = [len(next(iter(b.values()))) for b in examples.batches()]
    count = min(len(lengths), max(LAYER_PLACES, -(-wanted * len(lengths) // sum(lengths))))
    places, each = set(uniform_indices(len(lengths), count).tolist()), -(-wanted // count)
    found = []
    for number, batch in enumerate(examples.batches()):
        if number in places:
            length = lengths[number]
            rows = uniform_indices(length, min(each, length))
            found.append({k: v[rows] if v.dim() and len(v) == length else v for k, v in batch.items()})
    return found
