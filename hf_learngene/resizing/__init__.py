"""The user's verbs: `plan`, `allocate`, `resize`, `verify`, `from_pretrained_resized`."""

from hf_learngene.resizing.auto import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from hf_learngene.resizing.mixin import ResizableMixin
from hf_learngene.resizing.plan import Plan
from hf_learngene.resizing.verbs import allocate, plan, resize
from hf_learngene.resizing.verify import Report, verify


__all__ = [
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForMaskedLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "Plan",
    "Report",
    "ResizableMixin",
    "allocate",
    "plan",
    "resize",
    "verify",
]
