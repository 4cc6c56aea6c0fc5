"""L2: prunes what has the smallest weights (DepGraph, arXiv 2301.12900). A known ranking, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches
from hf_learngene.methods.base import Paper
from hf_learngene.methods.pruning_method import PruningMethod
from hf_learngene.methods.registry import register_method
from hf_learngene.pruning.criteria import Scores, sum_over_tensors


@register_method
@dataclass(frozen=True)
class L2(PruningMethod):
    """Keeps the entries, units, heads and layers whose weights have the largest norm. It looks at no examples.

    The weights of a unit are those of all matrices it runs through: its row in the one and its column in the other.

    Source: paper, section 3.3: the group norm; Torch-Pruning's `GroupNormImportance(p=2)`.
    """

    name: ClassVar[str] = "l2"
    paper: ClassVar[Paper | None] = Paper("DepGraph: Towards Any Structural Pruning", "2301.12900")
    summary: ClassVar[str] = "what has the largest weights"

    def score(
        self, model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool = False
    ) -> Scores:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        return sum_over_tensors(anatomy, lambda info: parameters[info.name].detach().double().cpu().pow(2))


__all__ = ["L2"]
