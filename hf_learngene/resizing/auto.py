"""Auto classes: transformers' own, with `from_pretrained_resized` beside `from_pretrained`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.hub.tasks import class_for
from hf_learngene.resizing.from_pretrained import ChooseClass
from hf_learngene.resizing.mixin import ResizableMixin


class _ResizableAuto(ResizableMixin):
    """What every auto class here adds. The mappings are transformers' own and stay untouched."""

    _model_mapping: Any

    if TYPE_CHECKING:  # what comes out is a model, never an auto class

        @classmethod
        def from_pretrained_resized(cls, *args: Any, **kwargs: Any) -> PreTrainedModel: ...  # type: ignore[override]

    @classmethod
    def class_for(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The model class that the auto mapping gives for a config.

        Raises:
            UnsupportedFamilyError: the mapping has none.
        """
        return class_for(cls, config)

    @classmethod
    def _resized_class(cls) -> tuple[type[PreTrainedModel] | None, ChooseClass]:
        return None, cls.class_for


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
