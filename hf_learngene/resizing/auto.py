"""Auto classes: transformers' own, with `from_pretrained_resized` beside `from_pretrained`."""

from __future__ import annotations

import os
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.methods import Method
from hf_learngene.resizing.loading import load_resized


class _ResizableAuto:
    """What every auto class here adds. The mappings are transformers' own and stay untouched."""

    _model_mapping: Any

    @classmethod
    def class_for(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The model class that the auto mapping gives for a config.

        Raises:
            UnsupportedFamilyError: the mapping has none.
        """
        for candidate in (config, getattr(config, "vision_config", None)):
            if isinstance(candidate, PreTrainedConfig) and type(candidate) in cls._model_mapping:
                found = cls._model_mapping[type(candidate)]
                return found[0] if isinstance(found, (tuple, list)) else found
        raise UnsupportedFamilyError(f"{cls.__name__} knows no class for `{config.model_type}` checkpoints.")

    @classmethod
    def from_pretrained_resized(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        method: str | Method = "auto",
        params: str | int | float | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> PreTrainedModel:
        """Loads a checkpoint and gives it another size: a plain transformers model.

        See `ResizableMixin.from_pretrained_resized` for the arguments; the class follows from the checkpoint's config.
        """
        return load_resized(
            pretrained_model_name_or_path,
            None,
            method=method,
            params=params,
            seed=seed,
            choose_class=cls.class_for,
            **kwargs,
        )


class AutoModel(_ResizableAuto, transformers.AutoModel):
    """`transformers.AutoModel` with `from_pretrained_resized`."""


class AutoModelForImageClassification(_ResizableAuto, transformers.AutoModelForImageClassification):
    """`transformers.AutoModelForImageClassification` with `from_pretrained_resized`."""


class AutoModelForSequenceClassification(_ResizableAuto, transformers.AutoModelForSequenceClassification):
    """`transformers.AutoModelForSequenceClassification` with `from_pretrained_resized`."""


class AutoModelForMaskedLM(_ResizableAuto, transformers.AutoModelForMaskedLM):
    """`transformers.AutoModelForMaskedLM` with `from_pretrained_resized`."""


class AutoModelForTokenClassification(_ResizableAuto, transformers.AutoModelForTokenClassification):
    """`transformers.AutoModelForTokenClassification` with `from_pretrained_resized`."""


class AutoModelForQuestionAnswering(_ResizableAuto, transformers.AutoModelForQuestionAnswering):
    """`transformers.AutoModelForQuestionAnswering` with `from_pretrained_resized`."""


BY_TASK: dict[str, type[_ResizableAuto]] = {
    "base": AutoModel,
    "image-classification": AutoModelForImageClassification,
    "text-classification": AutoModelForSequenceClassification,
    "fill-mask": AutoModelForMaskedLM,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
}


def class_of_checkpoint(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class a checkpoint was saved from (`config.architectures`), or the family's base model."""
    for name in config.architectures or []:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    return AutoModel.class_for(config)
