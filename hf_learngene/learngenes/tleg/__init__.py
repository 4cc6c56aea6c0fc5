"""A straight line through depth (TLEG)."""

from hf_learngene.learngenes.registry import register_learngene
from hf_learngene.learngenes.tleg.config import TlegConfig
from hf_learngene.learngenes.tleg.model import TlegLearngene


register_learngene(TlegConfig, TlegLearngene)

__all__ = ["TlegConfig", "TlegLearngene"]
