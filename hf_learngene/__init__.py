"""Well-initialised ViT and BERT models of any size, from checkpoints you already have."""

from importlib import import_module
from typing import TYPE_CHECKING

from hf_learngene._version import __version__


if TYPE_CHECKING:
    from hf_learngene import errors
    from hf_learngene.anatomy import register_anatomy
    from hf_learngene.methods import register_method, registered_methods
    from hf_learngene.resizing import (
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

# Names are loaded on first use, as transformers does: torch and the modelling code take seconds to import.
_HOME = {
    "AutoModel": "resizing",
    "AutoModelForImageClassification": "resizing",
    "AutoModelForMaskedLM": "resizing",
    "AutoModelForQuestionAnswering": "resizing",
    "AutoModelForSequenceClassification": "resizing",
    "AutoModelForTokenClassification": "resizing",
    "ResizableMixin": "resizing",
    "plan": "resizing",
    "register_anatomy": "anatomy",
    "register_method": "methods",
    "registered_methods": "methods",
    "resize": "resizing",
    "verify": "resizing",
}

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


def __getattr__(name: str) -> object:
    if name == "errors":
        return import_module("hf_learngene.errors")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hf_learngene.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
