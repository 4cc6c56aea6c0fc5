"""Well-initialised ViT and BERT models of any size, from checkpoints you already have."""

from importlib import import_module
from typing import TYPE_CHECKING

from hf_learngene._version import __version__


if TYPE_CHECKING:
    from hf_learngene import errors
    from hf_learngene.anatomy import register_anatomy
    from hf_learngene.comparing import Comparison, compare
    from hf_learngene.hub.card_parts import Result
    from hf_learngene.hub.push import push_folder, push_resized
    from hf_learngene.hub.save import save_resized
    from hf_learngene.learngenes import (
        AutoLearngene,
        AutoLearngeneConfig,
        FineConfig,
        LearngeneConfig,
        LetsConfig,
        SwsConfig,
        TlegConfig,
        WaveConfig,
        register_learngene,
        registered_learngenes,
    )
    from hf_learngene.methods import register_method, registered_methods
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
    from hf_learngene.training import (
        CheckpointSafeTrainer,
        LearngeneTrainer,
        LearngeneTrainingArguments,
        get_lemon_schedule,
        lemon_steps,
    )
    from hf_learngene.vocabulary.trimming import trim_tokenizer

# Names are loaded on first use, as transformers does: torch and the modelling code take seconds to import.
_HOME = {
    "AutoLearngene": "learngenes",
    "AutoLearngeneConfig": "learngenes",
    "AutoModel": "resizing",
    "AutoModelForImageClassification": "resizing",
    "AutoModelForMaskedLM": "resizing",
    "AutoModelForQuestionAnswering": "resizing",
    "AutoModelForSequenceClassification": "resizing",
    "AutoModelForTokenClassification": "resizing",
    "CheckpointSafeTrainer": "training",
    "Comparison": "comparing",
    "FineConfig": "learngenes",
    "LearngeneConfig": "learngenes",
    "LearngeneTrainer": "training",
    "LearngeneTrainingArguments": "training",
    "LetsConfig": "learngenes",
    "ResizableMixin": "resizing",
    "Result": "hub.card_parts",
    "SwsConfig": "learngenes",
    "TlegConfig": "learngenes",
    "WaveConfig": "learngenes",
    "allocate": "resizing",
    "compare": "comparing",
    "get_lemon_schedule": "training",
    "lemon_steps": "training",
    "plan": "resizing",
    "push_folder": "hub.push",
    "push_resized": "hub.push",
    "register_anatomy": "anatomy",
    "register_learngene": "learngenes",
    "register_method": "methods",
    "registered_learngenes": "learngenes",
    "registered_methods": "methods",
    "resize": "resizing",
    "save_resized": "hub.save",
    "trim_tokenizer": "vocabulary.trimming",
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
    "CheckpointSafeTrainer",
    "Comparison",
    "FineConfig",
    "LearngeneConfig",
    "LearngeneTrainer",
    "LearngeneTrainingArguments",
    "LetsConfig",
    "ResizableMixin",
    "Result",
    "SwsConfig",
    "TlegConfig",
    "WaveConfig",
    "__version__",
    "allocate",
    "compare",
    "errors",
    "get_lemon_schedule",
    "lemon_steps",
    "plan",
    "push_folder",
    "push_resized",
    "register_anatomy",
    "register_learngene",
    "register_method",
    "registered_learngenes",
    "registered_methods",
    "resize",
    "save_resized",
    "trim_tokenizer",
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


import_module("hf_learngene.learngenes")  # AutoModel and AutoConfig then know the model types of learngenes
