"""Learngenes: compact parts, fitted or distilled once from an ancestry model, that initialise models of every size."""

from hf_learngene.learngenes.auto import AutoLearngene, AutoLearngeneConfig
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.condensed import CondensedConfig, CondensedLearngene
from hf_learngene.learngenes.config import LearngeneConfig
from hf_learngene.learngenes.fine import FineConfig, FineLearngene
from hf_learngene.learngenes.lets import LetsConfig, LetsLearngene
from hf_learngene.learngenes.registry import register_learngene, registered_learngenes
from hf_learngene.learngenes.sws import SwsConfig, SwsLearngene
from hf_learngene.learngenes.tleg import TlegConfig, TlegLearngene
from hf_learngene.learngenes.wave import WaveConfig, WaveLearngene


__all__ = [
    "AutoLearngene",
    "AutoLearngeneConfig",
    "CondensedConfig",
    "CondensedLearngene",
    "FineConfig",
    "FineLearngene",
    "Learngene",
    "LearngeneConfig",
    "LetsConfig",
    "LetsLearngene",
    "SwsConfig",
    "SwsLearngene",
    "TlegConfig",
    "TlegLearngene",
    "WaveConfig",
    "WaveLearngene",
    "register_learngene",
    "registered_learngenes",
]
