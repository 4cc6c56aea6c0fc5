"""How long a calibrated shrink takes, near enough to know whether to wait for it."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy.inputs import main_input
from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.held_back import cut, rows_in
from hf_learngene.calibration.stacking import count_tokens
from hf_learngene.pruning.running import run


LONG = 15.0  # seconds: what takes longer is announced
PASSES = 8  # of the source over the examples that a shrink takes as long as: benchmarks/results/cost.md
TIMED, QUICK = (
    4,
    0.1,
)  # examples that are timed, and the seconds below which a whole batch is: each by itself takes longer


def seconds_needed(model: PreTrainedModel, examples: Batches) -> float:
    """Seconds that a calibrated shrink takes, about; by the time that the source takes for a few of the examples.

    Args:
        model: the source.
        examples: calibration examples, those of this process.
    """
    batch = next(examples.batches())
    timed = cut(batch, torch.arange(rows_in(batch)) < TIMED)
    _seconds(model, timed)  # the first pass is slower
    once = _seconds(model, timed)
    if once < QUICK:
        timed, once = batch, _seconds(model, batch)
    main, config = main_input(type(model)), model.config
    tokens = sum(count_tokens(each, main, config) for each in examples.batches())
    return PASSES * once * tokens / max(1, count_tokens(timed, main, config))


def spoken(seconds: float) -> str:
    """A time as one says it when it is not known precisely.

    Example:
        >>> spoken(33.0), spoken(100.0), spoken(400.0)
        ('30 seconds', '2 minutes', '7 minutes')
    """
    return f"{round(seconds, -1):.0f} seconds" if seconds < 75 else f"{max(2, round(seconds / 60))} minutes"


def _seconds(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> float:
    began = time.perf_counter()
    run(model, batch)
    return time.perf_counter() - began


__all__ = ["LONG", "seconds_needed", "spoken"]
