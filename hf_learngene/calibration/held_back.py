"""Examples that are held back from fitting, to say afterwards how well the result does on what it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from hf_learngene.calibration.examples import Batches, BatchesOf
from hf_learngene.calibration.weights import like


SHARE = 8  # one in so many
MOST = 64
FEWEST = 8  # of fewer, a share says little


def held_back(examples: Batches) -> tuple[Batches, Batches | None]:
    """A split of calibration examples: those that are held back are spread over all, and always the same ones.

    So given and made-up examples are both held back in their proportions.

    Args:
        examples (`Examples`): calibration examples; they are left as they are.

    Returns:
        The examples to fit on, and an eighth or at most 64 others to measure on; all of them and None where that would be fewer
        than 8.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene.calibration.examples import Examples
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, vocab_size=99)
        >>> examples = Examples([{"input_ids": [5, 6, n]} for n in range(96)], BertModel(config))
        >>> fitting, held = held_back(examples)
        >>> [len(batch["input_ids"]) for batch in fitting.batches()], [len(batch["input_ids"]) for batch in held.batches()]
        ([28, 56], [4, 8])
    """
    sizes = [rows_in(batch) for batch in examples.batches()]
    held = _held(sizes)
    if sum(int(places.sum()) for places in held) < FEWEST:
        return examples, None
    some = [number for number, places in enumerate(held) if bool(places.any())]
    fitted = [number for number, places in enumerate(held) if not bool(places.all())]
    return (
        _Rows(examples, tuple(fitted), lambda number, batch: cut(batch, ~held[number])),
        _Rows(examples, tuple(some), lambda number, batch: cut(batch, held[number])),
    )


def _held(sizes: list[int]) -> list[Tensor]:
    """Which of the examples of each batch are held back: spread over all, whatever the batches."""
    total = sum(sizes)
    wanted = min(MOST, total // SHARE)
    counted = torch.arange(total + 1) * wanted // max(1, total)
    return list((counted[1:] > counted[:-1]).split(sizes))


def rows_in(batch: Mapping[str, Tensor]) -> int:
    """Number of examples in a batch."""
    return max((len(value) for value in batch.values() if value.dim()), default=0)


def cut(batch: Mapping[str, Tensor], places: Tensor) -> dict[str, Tensor]:
    """The examples of a batch at these places, (examples,) of booleans; nothing of it is the batch's own."""
    return like(batch, {k: v[places] if v.dim() and len(v) == len(places) else v.clone() for k, v in batch.items()})


class _Rows(BatchesOf):
    """Batches with some of their rows."""

    def __init__(
        self,
        examples: Batches,
        chosen: tuple[int, ...],
        cut: Callable[[int, dict[str, Tensor]], dict[str, Tensor]],
    ) -> None:
        super().__init__(examples, chosen)
        self._cut = cut

    def batches(self, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Tensor]]:
        places = self._chosen if numbers is None else [self._chosen[n] for n in numbers]
        for place, batch in zip(places, self._examples.lent(places), strict=True):
            yield self._cut(place, batch)


__all__ = ["cut", "held_back", "rows_in"]
