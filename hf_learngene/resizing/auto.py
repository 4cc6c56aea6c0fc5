"""Auto classes: transformers' own, with `from_pretrained_resized` beside `from_pretrained`."""

from __future__ import annotations

import os
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.errors import CheckpointError, UnsupportedFamilyError
from hf_learngene.methods import Method
from hf_learngene.resizing.loading import load_config, load_resized, read_model


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
        calibration: Any = None,
        processing_class: Any = None,
        kept_tokens: Any = None,
        pad_to_multiple_of: int | None = None,
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
            calibration=calibration,
            processing_class=processing_class,
            kept_tokens=kept_tokens,
            pad_to_multiple_of=pad_to_multiple_of,
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


def load_whole(
    source: str | os.PathLike, model_class: type[PreTrainedModel] | None = None, **loading: Any
) -> PreTrainedModel:
    """The model of a checkpoint with nothing in it drawn at random: a teacher, or what is to be compared.

    Args:
        source: a Hub id or a folder.
        model_class: the class to fill; default: the one that the checkpoint was saved from.
        **loading: keywords of `from_pretrained`.

    Raises:
        CheckpointError: it cannot be read, or does not fill the class.
    """
    config = load_config(source, loading)
    cls = model_class if model_class is not None else class_of_checkpoint(config)
    model, info = read_model(source, cls, config, loading)
    if info["missing_keys"] and all("pooler" in name for name in info["missing_keys"]):
        model, info = read_model(source, cls, config, {**loading, "add_pooling_layer": False})
    if info["missing_keys"]:
        raise CheckpointError(
            f"`{source}` holds no {min(info['missing_keys'])!r}: what {cls.__name__} gives would be random."
        )
    return model
