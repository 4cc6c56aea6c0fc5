"""Whose inputs can be made up: told from config and class, before any weight is read."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import section, section_name
from hf_learngene.anatomy.inputs import (
    frames_of,
    image_sides,
    main_input,
    reads_choices,
    reads_image_beside_text,
    reads_states,
)
from hf_learngene.errors import SyntheticExamplesError, first_line


def can_synthesise(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> bool:
    """Whether the inputs of a model can be made up.

    Example:
        >>> from transformers import ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model
        >>> can_synthesise(ViTConfig(), ViTModel), can_synthesise(Wav2Vec2Config(), Wav2Vec2Model)
        (True, False)
    """
    return why_not(config, model_class) is None


def why_not(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> SyntheticExamplesError | None:
    """Why the inputs of a model cannot be made up: an error to raise, or None where they can.

    Args:
        config (`PreTrainedConfig`): the source's config.
        model_class (`type[PreTrainedModel]`): its class.

    Example:
        >>> from transformers import Wav2Vec2Config, Wav2Vec2Model
        >>> print(why_not(Wav2Vec2Config(), Wav2Vec2Model))
        Wav2Vec2Model reads 'input_values', which cannot be made up: only images (pixel_values) and texts (input_ids) are. ...
    """
    main, name = main_input(model_class), model_class.__name__
    if main not in ("pixel_values", "input_ids"):
        said = f"{name} reads {main!r}, which cannot be made up: only images (pixel_values) and texts (input_ids) are"
        return SyntheticExamplesError(main, said, whole=True)
    others = [n for n in _required(model_class) if n != main]
    if others:
        return SyntheticExamplesError(
            others[0], f"{name} cannot do without it, and made-up examples have {main} alone"
        )
    if reads_choices(model_class):
        return SyntheticExamplesError(main, f"an example of {name} is several texts, and only single ones are made up")
    if reads_image_beside_text(config, model_class):
        return SyntheticExamplesError(
            "pixel_values", f"{name} reads an image beside each text, and only one of both is made up"
        )
    if reads_states(config, model_class):
        said = f"{name} reads the states of another encoder beside each text, and only texts are made up"
        return SyntheticExamplesError("encoder_hidden_states", said)
    part = section(config, section_name(config, main))
    if main == "input_ids":
        if isinstance(getattr(part, "vocab_size", None), int):
            return None
        return SyntheticExamplesError(
            main, f"the config of {name} does not say how many tokens there are (vocab_size)"
        )
    if frames_of(part):
        return SyntheticExamplesError(main, f"{name} reads videos, and only single images are made up")
    try:
        image_sides(part)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        return SyntheticExamplesError(
            main, f"the config of {name} does not say how large its images are ({first_line(error)})"
        )
    return None


def _required(model_class: type[Any]) -> list[str]:
    """What a model's forward pass has no default for."""
    taken = inspect.signature(model_class.forward).parameters.values()
    named = [p for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in named[1:] if p.default is p.empty]


__all__ = ["can_synthesise", "why_not"]
