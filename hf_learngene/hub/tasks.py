"""Tasks and classes: which model class a checkpoint was saved from, and which one a task asks for."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.errors import UnsupportedFamilyError


# names of the Hub's pipeline tags -> transformers' auto class
TASKS: dict[str, Any] = {
    "base": transformers.AutoModel,
    "image-classification": transformers.AutoModelForImageClassification,
    "text-classification": transformers.AutoModelForSequenceClassification,
    "fill-mask": transformers.AutoModelForMaskedLM,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
}


def class_for(auto: Any, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The model class that an auto class gives for a config, or for the vision tower inside it.

    Raises:
        UnsupportedFamilyError: the auto class has none.
    """
    for candidate in (config, getattr(config, "vision_config", None)):
        if isinstance(candidate, PreTrainedConfig) and type(candidate) in auto._model_mapping:
            found = auto._model_mapping[type(candidate)]
            return found[0] if isinstance(found, (tuple, list)) else found
    raise UnsupportedFamilyError(f"{auto.__name__} knows no class for `{config.model_type}` checkpoints.")


def class_of_checkpoint(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class a checkpoint was saved from (`config.architectures`), or the family's base model."""
    for name in config.architectures or []:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    return class_for(transformers.AutoModel, config)
