"""How long a calibrated shrink takes, near enough to know whether to wait for it."""

from __future__ import annotations

import time

import torch
from transformers import PreTrainedModel

from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.held_back import cut, rows_in
from hf_learngene.calibration.stacking import count_tokens
from hf_learngene.pruning.activations import run


PASSES = 8  # of the source over the examples that a shrink takes as long as: benchmarks/results/cost.md
TIMED = 4  # examples


def seconds_needed(model: PreTrainedModel, examples: Batches) -> float:
    """Seconds that a calibrated shrink takes, about; by the time that the source takes for a few of the examples.

    Args:
        model: the source.
        examples: calibration examples, those of this process.
    """
    batch = next(examples.batches())
    timed = cut(batch, torch.arange(rows_in(batch)) < TIMED)
    run(model, timed)  # the first pass is slower
    began = time.perf_counter()
    run(model, timed)
    once = time.perf_counter() - began
    main, config = model.main_input_name, model.config
    tokens = sum(count_tokens(each, main, config) for each in examples.batches())
    return PASSES * once * tokens / max(1, count_tokens(timed, main, config))


__all__ = ["seconds_needed"]
