"""Stage-wise weight sharing (SWS)."""

from hf_learngene.learngenes.registry import register_learngene
from hf_learngene.learngenes.sws.config import SwsConfig
from hf_learngene.learngenes.sws.model import SwsLearngene


register_learngene(SwsConfig, SwsLearngene)

__all__ = ["SwsConfig", "SwsLearngene"]
