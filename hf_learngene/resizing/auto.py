"""Auto classes: transformers' own, with `from_pretrained_resized` beside `from_pretrained`."""

from __future__ import annotations

import os
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.hub.tasks import class_for
from hf_learngene.methods import Method
from hf_learngene.resizing.from_pretrained import load_resized
from hf_learngene.resizing.spec import ResizeSpec


class _ResizableAuto:
    """What every auto class here adds. The mappings are transformers' own and stay untouched."""

    _model_mapping: Any

    @classmethod
    def class_for(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The model class that the auto mapping gives for a config.

        Raises:
            UnsupportedFamilyError: the mapping has none.
        """
        return class_for(cls, config)

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
            ResizeSpec.parse(
                kwargs,
                method=method,
                params=params,
                seed=seed,
                calibration=calibration,
                processing_class=processing_class,
                kept_tokens=kept_tokens,
                pad_to_multiple_of=pad_to_multiple_of,
                loads=True,
            ),
            choose_class=cls.class_for,
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
