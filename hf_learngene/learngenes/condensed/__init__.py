"""Condensed learngene: an ancestry shrunk in closed form, from which working models of every size are made untrained."""

from hf_learngene.learngenes.condensed.config import CondensedConfig
from hf_learngene.learngenes.condensed.model import CondensedLearngene
from hf_learngene.learngenes.registry import register_learngene


register_learngene(CondensedConfig, CondensedLearngene)

__all__ = ["CondensedConfig", "CondensedLearngene"]
