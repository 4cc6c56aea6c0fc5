"""Model cards: what a model is, where it comes from, what it was measured at."""

from hf_learngene.card.parts import Result
from hf_learngene.card.resized import model_card


__all__ = ["Result", "model_card"]
