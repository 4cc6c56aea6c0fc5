"""A few of the examples, spread over all: for what is measured beside the passes over every example."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy.inputs import main_input
from hf_learngene.calibration.examples import BATCH, Batches
from hf_learngene.calibration.held_back import cut, rows_in
from hf_learngene.calibration.shares import mine, whole
from hf_learngene.calibration.stacking import count_tokens
from hf_learngene.maps.ops import uniform_indices


LEAST = 8  # however long the texts are: several processes share them
ENOUGH = 1024  # tokens together, for what is a choice or a check and no fit


def few(examples: Batches, model: PreTrainedModel, most: int, tokens: int | None = None) -> list[dict[str, Tensor]]:
    """At most so many examples, the same ones whatever the batches that they come in; of several processes, this one's part.

    Args:
        examples: calibration examples, or this process's share of them.
        model: what reads them.
        most: how many at most.
        tokens: no more than the model makes about so many tokens of together, but 8 examples.

    Returns:
        Batches of those that are taken.
    """
    every = whole(examples)
    sizes, length = [], 0
    for batch in every.batches():
        sizes.append(rows_in(batch))
        length += count_tokens(batch, main_input(type(model)), model.config)
    count = sum(sizes)
    if tokens is not None and length:
        most = min(most, max(LEAST, -(-tokens * count // length)))
    places = torch.zeros(count, dtype=torch.bool)
    places[mine(uniform_indices(count, min(most, count)).tolist())] = True  # by example: they may all be in one batch
    parts = zip(every.batches(), places.split(sizes), strict=True)
    return together([cut(batch, held) for batch, held in parts if bool(held.any())])


def together(batches: Iterable[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The same examples, up to 32 of equal shapes that follow one another in one batch: small ones take longer."""
    found: list[dict[str, Tensor]] = []
    for _, alike in itertools.groupby(batches, lambda b: [(n, v.shape[1:], v.dim()) for n, v in sorted(b.items())]):
        same = list(alike)
        joined = all(v.dim() and len(v) == rows_in(b) for b in same for v in b.values())
        if joined:
            columns = {n: torch.cat([b[n] for b in same]).split(BATCH) for n in same[0]}
            same = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        found += same
    return found


__all__ = ["ENOUGH", "few", "together"]
