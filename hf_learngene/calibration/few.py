"""A few of the examples, spread over all: for what is measured beside the passes over every example."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_learngene.calibration.examples import Batches, tokens_shown
from hf_learngene.calibration.held_back import cut, rows_in
from hf_learngene.calibration.shares import mine, whole
from hf_learngene.maps.ops import uniform_indices


def few(examples: Batches, most: int, tokens: int | None = None) -> list[dict[str, Tensor]]:
    """At most so many examples, the same ones whatever the batches that they come in; of several processes, this one's part.

    Args:
        examples: calibration examples, or this process's share of them.
        most: how many at most.
        tokens: of texts, no more than have about so many tokens together.

    Returns:
        Batches of those of each batch that are taken.
    """
    every = whole(examples)
    sizes, length = [], 0
    for batch in every.batches():
        sizes.append(rows_in(batch))
        shown = tokens_shown(batch)
        length += int(shown.sum()) if shown is not None else batch.get("input_ids", torch.empty(0)).numel()
    count = sum(sizes)
    if tokens is not None and length:
        most = min(most, -(-tokens * count // length))
    places = torch.zeros(count, dtype=torch.bool)
    places[uniform_indices(count, min(most, count))] = True
    parts = zip(every.batches(), places.split(sizes), strict=True)
    return mine([cut(batch, held) for batch, held in parts if bool(held.any())])


__all__ = ["few"]
