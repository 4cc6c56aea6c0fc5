"""The user's verbs: `plan`, `resize`, `verify`, `from_pretrained_resized`."""

from hf_learngene.resize.auto import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from hf_learngene.resize.mixin import ResizableMixin
from hf_learngene.resize.plan import Plan
from hf_learngene.resize.run import resize
from hf_learngene.resize.verbs import plan
from hf_learngene.resize.verify import Report, verify


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
    "plan",
    "resize",
    "verify",
]
