"""Config of SWS."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.config import LearngeneConfig, check_fit_layers
from hf_learngene.methods.base import Paper


class SwsConfig(LearngeneConfig):
    """Stages whose layers share all weights (SWS, arXiv 2404.16897).

    Args:
        num_stages (`int`, *optional*): stages of the auxiliary model; what is stored is one layer for each. Default: 5 as in the
            paper, or the depth if it is less.
        stages (`list[int]`, *optional*): the stage of each layer of the auxiliary model, where it is not the rule's (the
            paper's 3, 3, 4, 3, 3 layers for 16).
        fit_layers (`str`, *optional*, defaults to `"picked"`): what `from_ancestry` fits: as many whole layers of the ancestry as
            there are stages, each standing for its neighbours too, or `"all"` layers, the least residual.

    Raises:
        UnknownOptionError: another fit_layers.
        InvalidSizeError: fewer than one stage, or more stages than layers.
    """

    model_type = "learngene_sws"
    learngene_type: ClassVar[str] = "sws"
    summary: ClassVar[str] = "stages whose layers share all weights"
    paper: ClassVar[Paper | None] = Paper(
        "Transformer as Linear Expansion of Learngene by Stage-wise Weight Sharing", "2404.16897"
    )

    num_stages: int | None = None
    stages: list[int] | None = None
    fit_layers: str = "picked"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_fit_layers(self.fit_layers)
        depth = self.base.num_hidden_layers
        if self.num_stages is None:
            self.num_stages = min(5, depth)
        if not 1 <= self.num_stages <= depth:
            raise InvalidSizeError(
                f"num_stages={self.num_stages} does not fit an auxiliary model of {depth} layers; it lies between 1 and {depth}."
            )
        if self.stages is not None and len(self.stages) != depth:
            raise InvalidSizeError(f"stages names {len(self.stages)} layers, the auxiliary model has {depth}.")


__all__ = ["SwsConfig"]
