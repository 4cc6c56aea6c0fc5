"""Training: distillation of learngenes, scalers and resized students, and what any Trainer of a resized model needs."""

from hf_learngene.training.arguments import LearngeneTrainingArguments
from hf_learngene.training.checkpoints import CheckpointSafeTrainer
from hf_learngene.training.distilling import distill
from hf_learngene.training.schedule import get_lemon_schedule, lemon_steps
from hf_learngene.training.teacher import Teacher
from hf_learngene.training.trainer import LearngeneTrainer


__all__ = [
    "CheckpointSafeTrainer",
    "LearngeneTrainer",
    "LearngeneTrainingArguments",
    "Teacher",
    "distill",
    "get_lemon_schedule",
    "lemon_steps",
]
