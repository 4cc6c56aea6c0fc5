"""Weight templates and scalers (WAVE)."""

from hf_learngene.learngenes.registry import register_learngene
from hf_learngene.learngenes.wave.config import WaveConfig
from hf_learngene.learngenes.wave.model import WaveLearngene


register_learngene(WaveConfig, WaveLearngene)

__all__ = ["WaveConfig", "WaveLearngene"]
