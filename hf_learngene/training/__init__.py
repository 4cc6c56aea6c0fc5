"""Distillation: of a learngene, of the scalers of a new size, or of a resized student, from any teacher."""

from hf_learngene.training.arguments import LearngeneTrainingArguments
from hf_learngene.training.teacher import Teacher
from hf_learngene.training.trainer import LearngeneTrainer


__all__ = ["LearngeneTrainer", "LearngeneTrainingArguments", "Teacher"]
