"""Examples that are held back from fitting, to say afterwards how well the result does on what it has not seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from hf_learngene.calibration.examples import Batches, BatchesOf


SHARE = 8  # one in so many
MOST = 64
FEWEST = 8  # of fewer, a share says little


def held_back(examples: Batches) -> tuple[Batches, Batches | None]:
    """A split of calibration examples: the last rows of the batches are held back, as many of each as its size says.

    So given and made-up examples are both held back in their proportions. It is always the same ones.

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
        ([28, 28, 28], [4, 4, 4])
    """
    sizes = [_rows(batch) for batch in examples.batches()]
    held = _numbers_held(sizes)
    if sum(held) < FEWEST:
        return examples, None
    some = [number for number, count in enumerate(held) if count]
    fitted = [number for number, count in enumerate(held) if count < sizes[number]]
    return (
        _Rows(examples, tuple(fitted), lambda number, batch: _cut(batch, 0, sizes[number] - held[number])),
        _Rows(examples, tuple(some), lambda number, batch: _cut(batch, sizes[number] - held[number], sizes[number])),
    )


def _numbers_held(sizes: list[int]) -> list[int]:
    """How many of the examples of each batch are held back."""
    total = sum(sizes)
    wanted = min(MOST, total // SHARE)
    up_to = [wanted * seen // total for seen in itertools.accumulate(sizes)]
    return [after - before for before, after in itertools.pairwise([0, *up_to])]


def _rows(batch: dict[str, Tensor]) -> int:
    return max((len(value) for value in batch.values() if value.dim()), default=0)


def _cut(batch: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    rows = _rows(batch)
    return {k: v[start:stop] if v.dim() and len(v) == rows else v for k, v in batch.items()}


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
        for place, batch in zip(places, self._examples.batches(places), strict=True):
            yield self._cut(place, batch)


__all__ = ["held_back"]
