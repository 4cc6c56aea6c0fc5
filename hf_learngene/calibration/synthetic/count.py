"""How many examples a model needs. A refit solves for as many unknowns as its widest matrix has inputs, from tokens."""

from __future__ import annotations

import math
from typing import Any

from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import as_pair, native_name, section, section_name
from hf_learngene.anatomy.inputs import main_input
from hf_learngene.calibration.synthetic.masked_lm import LONGEST_WRITTEN, mask_of
from hf_learngene.calibration.synthetic.pixels import image_processor, read_size, size_for
from hf_learngene.calibration.synthetic.texts import LONGEST, lengths


LEAST_PER_RANK, MOST_PER_RANK = 6, 24  # tokens for each input of the widest matrix
WORK = 6e11  # tokens x parameters of the layers up to which more are made than the least: some 40 seconds on two cores
FEWEST, MOST = 32, 2048
_FRAMING = 2  # tokens around a text, near enough for a mean


def examples_needed(
    model: PreTrainedModel | PreTrainedConfig,
    processing_class: Any = None,
    *,
    model_class: type[PreTrainedModel] | None = None,
    given_tokens: int = 0,
) -> int:
    """The number of made-up examples that a model is shrunk with: enough tokens for its widest matrix.

    More tokens leave less to chance, so small models are given up to four times the least. Where other examples have the least
    already, none are made up; else as many as without them, less their tokens.

    Args:
        model (`PreTrainedModel` or `PreTrainedConfig`): the source, or its config alone.
        processing_class (*optional*): its image processor, where that makes images of another size than the config's.
        model_class (*optional*): class of the model, where only a config is given. Defaults to the family's base model.
        given_tokens (`int`, *optional*, defaults to 0): tokens of other examples, which made-up ones are to follow.

    Example:
        >>> from transformers import BertConfig, ViTConfig
        >>> examples_needed(ViTConfig(image_size=32, patch_size=8)) > examples_needed(ViTConfig(image_size=224))
        True
    """
    config = model if isinstance(model, PreTrainedConfig) else model.config
    cls: Any = model_class or (AutoModel._model_mapping[type(config)] if model is config else type(model))
    main = main_input(cls)
    part = section(config, section_name(config, main))
    if main == "pixel_values":
        processor = image_processor(processing_class)
        size = read_size(part, processor) if isinstance(model, PreTrainedConfig) else size_for(model, processing_class)
        down, across = as_pair(getattr(part, "patch_size", None) or 16)
        tokens = (size[0] // down) * (size[1] // across) + 1.0
    else:
        tokens = _text_tokens(
            part, LONGEST if mask_of(cls, processing_class, part.vocab_size) is None else LONGEST_WRITTEN
        )
    width = _size(part, "hidden_size") or 1
    ffn = _size(part, "intermediate_size") or width * (_size(part, "mlp_ratio") or 4)
    least = LEAST_PER_RANK * max(width, ffn)
    if given_tokens >= least:
        return 0
    parameters = (_size(part, "num_hidden_layers") or 1) * (4 * width * width + 2 * width * ffn)
    wanted = max(least, min(MOST_PER_RANK * max(width, ffn), WORK / parameters))
    return min(MOST, max(0 if given_tokens else FEWEST, math.ceil((wanted - given_tokens) / tokens)))


def _size(part: PreTrainedConfig, name: str) -> float | None:
    native = native_name(part, name)
    value = getattr(part, native) if native else None
    return value if isinstance(value, (int, float)) else None


def _text_tokens(part: PreTrainedConfig, longest: int) -> float:
    room = _size(part, "max_position_embeddings")
    return sum(lengths(_FRAMING, int(room) if room and room > 0 else None, longest)) / 2 + _FRAMING


__all__ = ["examples_needed"]
