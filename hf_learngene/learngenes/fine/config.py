"""Config of FINE."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.config import LearngeneConfig, check_count
from hf_learngene.methods.base import Paper


class FineConfig(LearngeneConfig):
    """Shared factors and a diagonal per layer (FINE, arXiv 2409.19289).

    Args:
        rank (`int`, *optional*): rank of the factors; default: the smaller side of each matrix.
        num_groups (`int`, *optional*, defaults to 1): groups of neighbouring layers that share factors, each group its own.
            1 is the paper's.
        num_vectors (`int`, *optional*): shared vectors for each bias and norm; default: half as many as layers.

    Raises:
        InvalidSizeError: a rank or a number of vectors below 1, or more groups than layers.
    """

    model_type = "learngene_fine"
    learngene_type: ClassVar[str] = "fine"
    summary: ClassVar[str] = "shared factors and a diagonal per layer"
    paper: ClassVar[Paper | None] = Paper(
        "FINE: Factorizing Knowledge for Initialization of Variable-sized Diffusion Models", "2409.19289"
    )

    rank: int | None = None
    num_groups: int = 1
    num_vectors: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("rank", "num_vectors"):
            check_count(name, getattr(self, name))
        check_count("num_groups", self.num_groups, optional=False)
        depth = self.auxiliary_depth
        if not 1 <= self.num_groups <= depth and self.shapes is None:  # taken to fewer layers, some groups rest
            raise InvalidSizeError(
                f"num_groups={self.num_groups} does not fit an auxiliary model of {depth} layers; it lies between 1 and {depth}."
            )


__all__ = ["FineConfig"]
