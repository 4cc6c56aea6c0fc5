"""A guard of `auto`: a calibrated shrink that is no nearer to its source than weight selection gives way to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.few import ENOUGH, few
from hf_learngene.calibration.held_back import FEWEST, rows_in
from hf_learngene.errors import NoGainError
from hf_learngene.methods import WeightSelection
from hf_learngene.pruning.agreement import distance
from hf_learngene.resizing.build_model import build_model
from hf_learngene.resizing.passes import Pass, make_pass
from hf_learngene.resizing.weights import Transfer


MOST = 32  # examples: a handful of passes of two small models

# the first layers, the default of the method by itself, are measured far worse than evenly spread ones (docs/choosing.md)
WITHOUT_EXAMPLES = WeightSelection(layer_selection="uniform")


def check_gain(
    step: Pass, sizes: Mapping[str, Any], source: PreTrainedModel, made: PreTrainedModel, examples: Batches
) -> None:
    """Refuses a calibrated shrink that is further from its source than the same shrink by weight selection.

    Args:
        step: the pass that refitted it.
        sizes: those of what was made in the end.
        source: the model that it started from.
        made: what was made.
        examples: those that were held back from the fit; of fewer than 8, nothing is said.

    Raises:
        NoGainError: it is further from it.
    """
    some = few(examples, source, MOST, ENOUGH)
    if sum(map(rows_in, some)) < FEWEST:
        return
    found = distance(source, made, some)
    other = distance(source, _selected(step, sizes, source), some)
    if found is not None and other is not None and not found <= other:
        raise NoGainError(
            f"On {sum(map(rows_in, some))} held-back examples, what {step.method.name!r} makes is further from the source "
            f"({found:.3g}) than what weight selection makes ({other:.3g})."
        )


def _selected(step: Pass, sizes: Mapping[str, Any], source: PreTrainedModel) -> PreTrainedModel:
    """The same shrink by weight selection."""
    plain = make_pass(
        WITHOUT_EXAMPLES,
        step.source_config,
        step.model_class,
        sizes,
        seed=step.task.seed,
        missing=step.task.missing,
        section_of=step.section,
    )
    transfer = Transfer(source, plain)
    made = build_model(
        plain.model_class, plain.config, transfer.weights(), source, anatomy=plain.task.target, seed=plain.task.seed
    )
    transfer.carry_buffers(made)
    return made


__all__ = ["WITHOUT_EXAMPLES", "check_gain"]
