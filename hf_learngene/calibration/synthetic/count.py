"""How many examples a model needs. A refit solves for as many unknowns as its widest matrix has inputs, from tokens.

The ffn of most families has four times the width in inputs. Where it has been shrunk below that, as in the core of a learngene,
as many tokens are made all the same: a core of MiniLM with ffn 384, taken to 4, 3 and 2 of 6 layers, is right on 88.8, 86.8 and
85.1 % of 2,000 training sentences that nothing looked at, and with a quarter of the tokens on 85.8, 81.9 and 71.6 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import as_pair, native_name, section, section_name
from hf_learngene.anatomy.inputs import main_input
from hf_learngene.anatomy.stages import StageField, stage_fields
from hf_learngene.calibration.stacking import count_tokens
from hf_learngene.calibration.synthetic.masked_lm import LONGEST_WRITTEN, mask_of
from hf_learngene.calibration.synthetic.pixels import image_processor, read_size, size_for
from hf_learngene.calibration.synthetic.texts import LONGEST, lengths
from hf_learngene.calibration.weights import GIVEN_COUNTS


LEAST_PER_RANK, MOST_PER_RANK = 6, 24  # tokens for each input of the widest matrix
WORK = 6e11  # tokens x parameters of the layers up to which more are made than the least: some 40 seconds on two cores
FEWEST, MOST = 32, 2048
FFN = 4  # times the width, in most families
FIRST_STRIDE = 4  # of a hierarchy whose config names several; each stage behind the first has half the places a side
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
    already, none are made up; else as many as bring them to it, and as many as without them less four for each of their tokens.

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
    if main == "pixel_values" and (fields := stage_fields(part)):
        return _for_stages(model, part, fields, processing_class, given_tokens)
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
    ffn = _size(part, "intermediate_size") or width * (_size(part, "mlp_ratio") or FFN)
    widest = max(FFN * width, ffn)
    least = LEAST_PER_RANK * widest
    if given_tokens >= least:
        return 0
    parameters = (_size(part, "num_hidden_layers") or 1) * (4 * width * width + 2 * width * ffn)
    wanted = max(least, min(MOST_PER_RANK * widest, WORK / parameters))
    return _beside(least, wanted, given_tokens, tokens)


def _for_stages(
    model: PreTrainedModel | PreTrainedConfig,
    part: PreTrainedConfig,
    fields: Mapping[str, StageField],
    processing_class: Any,
    given_tokens: int,
) -> int:
    """The number for a hierarchy: enough for the widest matrix of every stage. The later a stage, the fewer its tokens."""
    config = model if isinstance(model, PreTrainedConfig) else model.config
    processor = image_processor(processing_class)
    size = read_size(part, processor) if isinstance(model, PreTrainedConfig) else size_for(model, processing_class)
    values = {
        name: field.read(getattr(part, field.native), _stages_of(part, fields)) for name, field in fields.items()
    }
    least = work = 0.0
    patch = getattr(part, "patch_size", None)
    for stage, (width, depth) in enumerate(zip(values["hidden_size"], values["num_hidden_layers"], strict=True)):
        side = as_pair(patch or FIRST_STRIDE)[0] * 2**stage
        tokens = math.ceil(size[0] / side) * math.ceil(size[1] / side)
        ratio = values["mlp_ratio"][stage] if "mlp_ratio" in values else _size(part, "mlp_ratio") or FFN
        least = max(least, LEAST_PER_RANK * max(FFN, ratio) * width / tokens)
        work += tokens * depth * (4 * width * width + 2 * ratio * width * width)
    wanted = max(least, min(2 * least, WORK / work))
    blank = torch.zeros(1, int(getattr(part, "num_channels", None) or 3), *size)
    given = given_tokens / count_tokens({"pixel_values": blank}, "pixel_values", config)
    return 0 if given >= least else _beside(least, wanted, given, 1.0)


def _beside(least: float, wanted: float, given: float, each: float) -> int:
    """The number of examples beside given ones: up to the least, and as many more as those do not stand for already."""
    missing = max(least - given, wanted - GIVEN_COUNTS * given)
    return min(MOST, max(0 if given else FEWEST, math.ceil(missing / each)))


def _stages_of(part: PreTrainedConfig, fields: Mapping[str, StageField]) -> int:
    return len(getattr(part, fields["num_hidden_layers"].native))


def _size(part: PreTrainedConfig, name: str) -> float | None:
    native = native_name(part, name)
    value = getattr(part, native) if native else None
    return value if isinstance(value, (int, float)) else None


def _text_tokens(part: PreTrainedConfig, longest: int) -> float:
    room = _size(part, "max_position_embeddings")
    return sum(lengths(_FRAMING, int(room) if room and room > 0 else None, longest)) / 2 + _FRAMING


__all__ = ["examples_needed"]
