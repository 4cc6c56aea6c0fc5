"""Learned width maps over a small model's layers (LeTs)."""

from hf_learngene.learngenes.lets.config import LetsConfig
from hf_learngene.learngenes.lets.model import LetsLearngene
from hf_learngene.learngenes.registry import register_learngene


register_learngene(LetsConfig, LetsLearngene)

__all__ = ["LetsConfig", "LetsLearngene"]
