"""Config of LeTs."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.config import LearngeneConfig
from hf_learngene.methods.base import Paper


class LetsConfig(LearngeneConfig):
    """A small model's layers, and learned maps that widen and mix them (LeTs, NeurIPS 2024).

    Args:
        learngene_hidden_size (`int`, *optional*): width of the small layers, in whole heads; the smallest width of a descendant.
            Default: half the auxiliary model's heads.
        learngene_layers (`int`, *optional*): how many small layers; default: half the auxiliary model's.

    Raises:
        InvalidSizeError: a width or a depth that is not below the auxiliary model's.
    """

    model_type = "learngene_lets"
    learngene_type: ClassVar[str] = "lets"
    summary: ClassVar[str] = "a small model's layers, and learned maps that widen and mix them"
    paper: ClassVar[Paper | None] = None  # NeurIPS 2024 (Xia, Zu, Yang, Geng), not on arXiv

    learngene_hidden_size: int | None = None
    learngene_layers: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        depth = self.base.num_hidden_layers
        if self.learngene_layers is None:
            self.learngene_layers = max(1, depth // 2)
        if not 1 <= self.learngene_layers <= depth:
            raise InvalidSizeError(
                f"learngene_layers={self.learngene_layers} lies between 1 and the auxiliary model's {depth} layers."
            )


__all__ = ["LetsConfig"]
