"""Config of TLEG."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_learngene.learngenes.config import LearngeneConfig, check_fit_layers
from hf_learngene.methods.base import Paper


class TlegConfig(LearngeneConfig):
    """A straight line through depth (TLEG, arXiv 2312.05614).

    Args:
        fit_layers (`str`, *optional*, defaults to `"picked"`): what `from_ancestry` fits: two whole layers of the
            ancestry, each standing for half of them, or `"all"` layers, the least residual.

    Raises:
        UnknownOptionError: another fit_layers.
    """

    model_type = "learngene_tleg"
    learngene_type: ClassVar[str] = "tleg"
    summary: ClassVar[str] = "a straight line through depth"
    paper: ClassVar[Paper | None] = Paper("Transformer as Linear Expansion of Learngene", "2312.05614")

    fit_layers: str = "picked"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_fit_layers(self.fit_layers)


__all__ = ["TlegConfig"]
