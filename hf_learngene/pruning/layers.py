"""Which layers are kept: those without which the model's output changes most, measured on calibration examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.pruning.activations import output_of, without_autocast
from hf_learngene.pruning.targets import layer_container


ROUNDS = 4  # in which layers leave
LAYER_EXAMPLES, LAYER_PLACES = 64, 8  # that are looked at for each of them, and batches that they are taken from


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
    batches = _few(examples)
    container = layer_container(anatomy)
    wanted = [output_of(model, b) for b in batches]
    alive = list(range(anatomy.num_layers))
    leaving = len(alive) - depth
    with tqdm(total=leaving, desc="choosing layers", disable=disable_progress) as bar:
        while len(alive) > depth:
            gone = [i for i in range(anatomy.num_layers) if i not in alive]
            costs = [_cost(model, container, [*gone, layer], batches, wanted) for layer in alive]
            portion = min(len(alive) - depth, -(-leaving // ROUNDS))
            order = sorted(range(len(alive)), key=lambda i: costs[i])
            out = {alive[i] for i in order[:portion]}
            alive = [i for i in alive if i not in out]
            bar.update(portion)
    return tuple(alive)


@torch.no_grad()
@without_autocast()
def layer_costs(
    model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool = False
) -> list[float]:
    """How far the model's output moves without each of its layers, on a few examples; a squared distance."""
    batches = _few(examples)
    wanted = [output_of(model, b) for b in batches]
    layers = tqdm(range(anatomy.num_layers), desc="choosing layers", disable=disable_progress)
    return [_cost(model, layer_container(anatomy), [layer], batches, wanted) for layer in layers]


def _cost(
    model: PreTrainedModel,
    container: str,
    gone: Sequence[int],
    batches: Sequence[dict[str, Tensor]],
    wanted: Sequence[Tensor],
) -> float:
    with skipped(model, container, gone):
        found = [output_of(model, b) for b in batches]
    return sum(float((f - w).pow(2).sum()) for f, w in zip(found, wanted, strict=True))


def _few(examples: Batches) -> list[dict[str, Tensor]]:
    """A few examples of some batches, both spread over all: data sets are often sorted by their labels."""
    lengths = [len(next(iter(b.values()))) for b in examples.batches()]
    count = min(len(lengths), max(LAYER_PLACES, -(-LAYER_EXAMPLES * len(lengths) // sum(lengths))))
    places, each = set(uniform_indices(len(lengths), count).tolist()), -(-LAYER_EXAMPLES // count)
    found = []
    for number, batch in enumerate(examples.batches()):
        if number in places:
            length = lengths[number]
            rows = uniform_indices(length, min(each, length))
            found.append({k: v[rows] if v.dim() and len(v) == length else v for k, v in batch.items()})
    return found


@contextmanager
def skipped(model: PreTrainedModel, container: str, layers: Sequence[int]) -> Iterator[None]:
    """The layers hand on what they are given."""

    def hook(module: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> Any:
        given = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))
        if isinstance(result, Tensor):
            return given
        return (given, *result[1:])

    with ExitStack() as stack:
        for layer in layers:
            module = model.get_submodule(f"{container}.{layer}")
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield
