"""Config of TLEG."""

from __future__ import annotations

from typing import ClassVar

from hf_learngene.learngenes.config import LearngeneConfig
from hf_learngene.methods.base import Paper


class TlegConfig(LearngeneConfig):
    """A straight line through depth (TLEG, arXiv 2312.05614). It has no options of its own."""

    model_type = "learngene_tleg"
    learngene_type: ClassVar[str] = "tleg"
    paper: ClassVar[Paper | None] = Paper("Transformer as Linear Expansion of Learngene", "2312.05614")


__all__ = ["TlegConfig"]
