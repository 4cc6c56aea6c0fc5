"""Minitron: what is most active stays, as it is (arXiv 2407.14679). A ranking people know, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_learngene.methods.base import Paper
from hf_learngene.methods.pruning_method import PruningMethod


@dataclass(frozen=True)
class Minitron(PruningMethod):
    """Keeps the entries, units and heads whose activations are largest on the examples, and the layers that turn the stream most.

    It needs `calibration=`, unlabelled. One order of the stream serves all layers; heads stay whole; nothing is refitted.

    Source: paper, section 2.2, as released in NVIDIA's modelopt: the L2 norm over samples of the mean over the sequence of
    the absolute activation, at every norm's output, at the input of the second ffn matrix, and at that of the attention's
    output matrix; for layers 1 - cos(input, output).
    """

    name: ClassVar[str] = "minitron"
    paper: ClassVar[Paper | None] = Paper(
        "Compact Language Models via Pruning and Knowledge Distillation", "2407.14679"
    )
    summary: ClassVar[str] = "what is most active on unlabelled examples (calibration=)"
    takes_calibration: ClassVar[bool] = True
    ranking: ClassVar[str] = "activations"


__all__ = ["Minitron"]
