"""Well-initialised ViT and BERT models of any size, from checkpoints you already have."""

from hf_learngene import errors
from hf_learngene._version import __version__
from hf_learngene.anatomy import register_anatomy
from hf_learngene.methods import register_method, registered_methods
from hf_learngene.resize import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    ResizableMixin,
    plan,
    resize,
    verify,
)


__all__ = [
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForMaskedLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "ResizableMixin",
    "__version__",
    "errors",
    "plan",
    "register_anatomy",
    "register_method",
    "registered_methods",
    "resize",
    "verify",
]
