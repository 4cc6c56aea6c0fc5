"""ShortGPT: prunes the layers that rotate the residual stream least (arXiv 2403.03853). A known ranking, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches
from hf_learngene.errors import DirectionError
from hf_learngene.maps.task import changes, shown
from hf_learngene.methods.base import Paper
from hf_learngene.methods.pruning_method import PruningMethod
from hf_learngene.methods.registry import register_method
from hf_learngene.pruning.criteria import Scores, activation_scores


@register_method
@dataclass(frozen=True)
class ShortGPT(PruningMethod):
    """Keeps the layers that rotate the residual stream most, as they are. Depth only.

    It needs `calibration=`, unlabelled.

    Source: paper, section 2.3: the block influence of a layer is 1 - the mean over tokens of cos(input, output).
    """

    name: ClassVar[str] = "shortgpt"
    paper: ClassVar[Paper | None] = Paper(
        "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", "2403.03853"
    )
    summary: ClassVar[str] = (
        "the layers that rotate the residual stream most, on unlabelled examples (calibration=); depth only"
    )
    needs_examples: ClassVar[bool] = True

    def score(
        self, model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool = False
    ) -> Scores:
        return activation_scores(model, anatomy, examples, widths=False, disable_progress=disable_progress)

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        super().check(source, sizes)
        changed = changes(source, sizes)
        if changed:
            raise DirectionError(
                f"shortgpt drops whole layers, so widths stay ({shown(changed)}). Ask for num_hidden_layers alone; "
                "method='minitron' ranks widths too."
            )


__all__ = ["ShortGPT"]
