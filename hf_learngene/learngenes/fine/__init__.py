"""Shared factors and a diagonal per layer (FINE)."""

from hf_learngene.learngenes.fine.config import FineConfig
from hf_learngene.learngenes.fine.model import FineLearngene
from hf_learngene.learngenes.registry import register_learngene


register_learngene(FineConfig, FineLearngene)

__all__ = ["FineConfig", "FineLearngene"]
