"""Minitron: prunes what is least active (arXiv 2407.14679). A known ranking, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_learngene.methods.base import Paper
from hf_learngene.methods.pruning_method import PruningMethod


@dataclass(frozen=True)
class Minitron(PruningMethod):
    """Keeps the entries, units and heads whose activations are largest on the examples, and the layers that rotate most.

    It needs `calibration=`, unlabelled. One order of the residual stream serves all layers; heads are kept whole; nothing is
    refitted.

    Source: paper, section 2.2, as released in NVIDIA's modelopt: the L2 norm over samples of the mean over the sequence of
    the absolute activation, at the norms' outputs, at the input of the second ffn matrix, and at that of the attention's
    output matrix; for layers 1 - cos(input, output). The release sums an entry's importance over the norms inside the
    layers; here over every norm of the width, so the final one and BERT's behind the embeddings count too.
    """

    name: ClassVar[str] = "minitron"
    paper: ClassVar[Paper | None] = Paper(
        "Compact Language Models via Pruning and Knowledge Distillation", "2407.14679"
    )
    summary: ClassVar[str] = "what is most active on unlabelled examples (calibration=)"
    takes_calibration: ClassVar[bool] = True
    ranking: ClassVar[str] = "activations"


__all__ = ["Minitron"]
