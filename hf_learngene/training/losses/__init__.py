"""Distillation losses: each gives one number per example, a sum over the example's items, so that any batch split adds up."""

from hf_learngene.training.losses.embeddings import embedding_loss
from hf_learngene.training.losses.features import feature_loss
from hf_learngene.training.losses.hard import hard_label_loss
from hf_learngene.training.losses.hidden import hidden_state_loss, teacher_layers
from hf_learngene.training.losses.masked_lm import at_items
from hf_learngene.training.losses.relations import relation_loss
from hf_learngene.training.losses.soft import soft_logit_loss


__all__ = [
    "at_items",
    "embedding_loss",
    "feature_loss",
    "hard_label_loss",
    "hidden_state_loss",
    "relation_loss",
    "soft_logit_loss",
    "teacher_layers",
]
