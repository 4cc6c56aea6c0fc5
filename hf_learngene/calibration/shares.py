"""Calibration across processes: each looks at its share of the examples, and what they sum up is the sum over all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, reduce
from torch import Tensor, nn

from hf_learngene.calibration.examples import Batches, BatchesOf
from hf_learngene.calibration.held_back import cut, rows_in


_T = TypeVar("_T")
_SHARING: ContextVar[PartialState | None] = ContextVar("sharing", default=None)


class Share(BatchesOf):
    """The batches of one process, or its examples of every batch where there are fewer batches than processes.

    They are numbered as in the whole, of which `whole` is what all processes have.
    """

    def __init__(self, whole: Batches, state: PartialState) -> None:
        super().__init__(whole, tuple(range(whole.num_batches)))
        self.whole, self._state = whole, state

    def batches(self, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Tensor]]:
        """Those that are this process's, of all or of these numbers."""
        wanted = range(self.num_batches) if numbers is None else numbers
        mine, processes = self._state.process_index, self._state.num_processes
        if self.num_batches >= processes:
            yield from self.whole.batches([n for n in wanted if n % processes == mine])
            return
        for batch in self.whole.batches(wanted):
            places = torch.arange(rows_in(batch)) % processes == mine
            if places.any():
                yield cut(batch, places)


@contextmanager
def shared(examples: Batches) -> Iterator[Batches]:
    """The examples of this process, while sums are those over all processes.

    They are shared where a script runs in several processes and Accelerate knows of it: it has an `Accelerator`, the arguments of
    a `Trainer`, or a `PartialState`. Every process has to come here, with the same model and the same examples. With fewer
    examples than processes each looks at all.

    Args:
        examples: calibration examples, the same in every process.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene.calibration.examples import Examples
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, vocab_size=20)
        >>> with shared(Examples([{"input_ids": [5, 6, 7]}], BertModel(config))) as mine:  # one process
        ...     mine.num_batches, total(torch.ones(2))
        (1, tensor([1., 1.]))
    """
    state = PartialState() if PartialState._shared_state else None  # making one would start what nobody asked for
    if state is None or state.num_processes < 2 or not _enough(examples, state.num_processes):
        yield examples
        return
    token = _SHARING.set(state)
    try:
        yield Share(examples, state)
    finally:
        _SHARING.reset(token)


def _enough(examples: Batches, processes: int) -> bool:
    """Whether every process gets some."""
    return examples.num_batches >= processes or rows_in(next(examples.batches([0]))) >= processes


def is_shared() -> bool:
    """Whether sums are those over several processes."""
    return _SHARING.get() is not None


def whole(examples: Batches) -> Batches:
    """The examples of all processes, from those of this one."""
    return examples.whole if isinstance(examples, Share) else examples


def mine(items: Sequence[_T]) -> list[_T]:
    """Of things that every process has, those that this one works on."""
    state = _SHARING.get()
    return list(items) if state is None else list(items[state.process_index :: state.num_processes])


def total(values: Tensor) -> Tensor:
    """The sum of the processes' values; they are as they are where nothing is shared."""
    state = _SHARING.get()
    if state is None:
        return values
    return reduce(values.to(state.device), "sum").to(values.device)


def as_main(values: Tensor) -> Tensor:
    """The main process's values, in every process."""
    state = _SHARING.get()
    return values if state is None else broadcast(values.to(state.device, copy=True)).to(values.device)


def decided(choice: _T) -> _T:
    """What the main process chose: on another machine, rounding may have it otherwise."""
    return choice if _SHARING.get() is None else broadcast_object_list([choice])[0]


def agree(model: nn.Module) -> None:
    """Gives every process the main one's weights."""
    if _SHARING.get() is not None:
        with torch.no_grad():
            for value in [*model.parameters(), *model.buffers()]:
                value.copy_(as_main(value))


__all__ = ["Share", "agree", "as_main", "decided", "is_shared", "mine", "shared", "total", "whole"]
