"""Minitron: prunes what is least active (arXiv 2407.14679). A known ranking, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches
from hf_learngene.methods.base import Paper
from hf_learngene.methods.pruning_method import PruningMethod
from hf_learngene.methods.registry import register_method
from hf_learngene.pruning.criteria import Scores, activation_scores


@register_method
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
    needs_examples: ClassVar[bool] = True

    def score(
        self, model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool = False
    ) -> Scores:
        return activation_scores(model, anatomy, examples, widths=True, disable_progress=disable_progress)


__all__ = ["Minitron"]
