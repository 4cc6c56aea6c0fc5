"""Taylor: prunes what changes the loss least (arXiv 1906.10771). A known ranking, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_learngene.methods.base import Paper
from hf_learngene.methods.pruning_method import PruningMethod


@dataclass(frozen=True)
class Taylor(PruningMethod):
    """Keeps what the loss would miss most, to first order: |weight x gradient|, summed over what is pruned together.

    It needs `calibration=` **with labels**, and a backward pass over it: the one method here that does.

    Source: paper, section 3.1 (first order), over groups as Torch-Pruning's `GroupTaylorImportance`.
    """

    name: ClassVar[str] = "taylor"
    paper: ClassVar[Paper | None] = Paper("Importance Estimation for Neural Network Pruning", "1906.10771")
    summary: ClassVar[str] = "what the loss would miss most, on labelled examples (calibration= with labels)"
    takes_calibration: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    ranking: ClassVar[str] = "gradients"


__all__ = ["Taylor"]
