"""Well-initialised ViT and BERT models of any size, from checkpoints you already have.

The verbs and classes that most people need are here, and each loads what it needs when it is first used. The rest is in
submodules: `hf_learngene.methods`, `.learngenes`, `.training`, `.comparing`, `.hub`, `.anatomy`, `.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from hf_learngene import errors
from hf_learngene._version import __version__


if TYPE_CHECKING:
    from hf_learngene.calibration.synthetic import synthetic_examples
    from hf_learngene.comparing import compare
    from hf_learngene.hub import push_resized, save_resized
    from hf_learngene.learngenes import AutoLearngene, AutoLearngeneConfig
    from hf_learngene.resizing import (
        AutoModel,
        AutoModelForImageClassification,
        AutoModelForMaskedLM,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        ResizableMixin,
        allocate,
        plan,
        resize,
        verify,
    )
    from hf_learngene.resizing.adapted import resize_adapter
    from hf_learngene.resizing.to_folder import resize_checkpoint
    from hf_learngene.resizing.trainer_checkpoint import resize_trainer_checkpoint
    from hf_learngene.resizing.with_optimizer import resize_with_optimizer
    from hf_learngene.training import LearngeneTrainer, LearngeneTrainingArguments, distill
    from hf_learngene.vocabulary.trim_tokenizer import trim_tokenizer

# Imported on first use, as transformers does it: torch and the modelling code take seconds.
_HOME = {
    "AutoLearngene": "learngenes",
    "AutoLearngeneConfig": "learngenes",
    "AutoModel": "resizing",
    "AutoModelForImageClassification": "resizing",
    "AutoModelForMaskedLM": "resizing",
    "AutoModelForQuestionAnswering": "resizing",
    "AutoModelForSequenceClassification": "resizing",
    "AutoModelForTokenClassification": "resizing",
    "LearngeneTrainer": "training",
    "LearngeneTrainingArguments": "training",
    "ResizableMixin": "resizing",
    "allocate": "resizing",
    "compare": "comparing",
    "distill": "training",
    "plan": "resizing",
    "push_resized": "hub",
    "resize": "resizing",
    "resize_adapter": "resizing.adapted",
    "resize_checkpoint": "resizing.to_folder",
    "resize_trainer_checkpoint": "resizing.trainer_checkpoint",
    "resize_with_optimizer": "resizing.with_optimizer",
    "save_resized": "hub",
    "synthetic_examples": "calibration.synthetic",
    "trim_tokenizer": "vocabulary.trim_tokenizer",
    "verify": "resizing",
}

__all__ = [
    "AutoLearngene",
    "AutoLearngeneConfig",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForMaskedLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "LearngeneTrainer",
    "LearngeneTrainingArguments",
    "ResizableMixin",
    "__version__",
    "allocate",
    "compare",
    "distill",
    "errors",
    "plan",
    "push_resized",
    "resize",
    "resize_adapter",
    "resize_checkpoint",
    "resize_trainer_checkpoint",
    "resize_with_optimizer",
    "save_resized",
    "synthetic_examples",
    "trim_tokenizer",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hf_learngene.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
