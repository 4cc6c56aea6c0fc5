"""The smallest inputs of a model's own kinds, from the signature of its forward pass and its config."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import as_pair, nested_configs, section, section_name
from hf_learngene.anatomy.registry import declaration_of
from hf_learngene.anatomy.stages import stage_fields
from hf_learngene.errors import UnsupportedFamilyError


CHOICES = 2
FRAMES = ("num_frames", "frames_per_clip")
IMAGES = ("image_size", "crop_size")
_MERGED = ("spatial_merge_size", "merge_size", "merge_kernel_size")
_FRAMES_OF_A_PATCH = ("temporal_patch_size", "patch_temporal")
USUAL_SIDE = 224  # of images, where a config says none
_ANY_SIZE = 64  # of a hierarchy that takes images of any size: two patches a side are left after strides of 32
_FEATURES = ("feature_projection_input_dim", "num_mel_bins")


def main_input(model_class: type[PreTrainedModel]) -> str:
    """Name of what a model reads.

    A class that inherits `main_input_name` may have another one (the vision encoders of Idefics and SmolVLM): then it is the
    first that its forward pass takes.

    Example:
        >>> from transformers import ASTModel, BertModel
        >>> main_input(BertModel), main_input(ASTModel)
        ('input_ids', 'input_values')
    """
    taken = list(inspect.signature(model_class.forward).parameters)[1:]
    named = str(model_class.main_input_name)
    return named if named in taken else next((n for n in taken if n in _KINDS), named)


def image_sides(part: PreTrainedConfig) -> tuple[int, int]:
    """Height and width of the images that a model reads; of a hierarchy that takes any, the usual 224.

    Raises:
        AttributeError: the config says none.
    """
    size = getattr(part, "image_size", None)
    if size is None and stage_fields(part):
        return USUAL_SIDE, USUAL_SIDE
    height, width = as_pair(part.image_size)
    return height, width


def reads_choices(model_class: type[PreTrainedModel]) -> bool:
    """Whether an example of a model is several texts, of which it chooses one."""
    return main_input(model_class) == "input_ids" and model_class.__name__.endswith("ForMultipleChoice")


def reads_image_beside_text(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> bool:
    """Whether a model reads a text and an image: with one encoder (ViLT), or with one for each (CLIP).

    Where a token of the text stands for the image (ModernVBERT), a text does without any.
    """
    if getattr(config, "image_token_id", None) is not None:
        return False
    taken = inspect.signature(model_class.forward).parameters
    images, texts = (section(config, section_name(config, kind)) for kind in ("pixel_values", "input_ids"))
    sized = any(getattr(images, name, None) is not None for name in (*IMAGES, "num_patches"))
    return {"input_ids", "pixel_values"} <= taken.keys() and sized and hasattr(texts, "vocab_size")


def reads_states(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> bool:
    """Whether a model of texts has a cross-attention to the states of another encoder, which its caller gives (BLIP's texts).

    Example:
        >>> from transformers import BertConfig, BertModel, BlipTextConfig, BlipTextModel
        >>> reads_states(BlipTextConfig(), BlipTextModel), reads_states(BertConfig(), BertModel)
        (True, False)
    """
    crosses = getattr(config, "is_decoder", False) and isinstance(getattr(config, "encoder_hidden_size", None), int)
    taken = inspect.signature(model_class.forward).parameters
    return crosses and main_input(model_class) == "input_ids" and "encoder_hidden_states" in taken


def token_rows(model: PreTrainedModel) -> int | None:
    """How many tokens a model has rows for; None where it reads none, or nobody says it.

    A model of several parts need not say which embeddings are the texts': there the config of the texts does.
    """
    part = section(model.config, section_name(model.config, "input_ids"))
    if part is not model.config:
        return getattr(part, "vocab_size", None)
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # a family that hashes characters (CANINE) has none
        return None
    return int(weight.shape[0]) if isinstance(weight, Tensor) and weight.dim() == 2 else None


def frames_of(part: PreTrainedConfig) -> int | None:
    """Frames of the videos that a config is made for; None where it is made for images."""
    return next((v for n in FRAMES if isinstance(v := getattr(part, n, None), int)), None)


def example_inputs(
    model: PreTrainedModel, config: PreTrainedConfig, device: str = "cpu", tokens: int = 10
) -> dict[str, Tensor]:
    """One small input of the model's own kinds, or what was declared of its family.

    Args:
        model (`PreTrainedModel`): the model.
        config (`PreTrainedConfig`): its config.
        device (`str`, *optional*, defaults to `"cpu"`): where the inputs lie.
        tokens (`int`, *optional*, defaults to 10): of a text, or frames of a sound. Images and spectrograms have the size of
            the config.

    Raises:
        UnsupportedFamilyError: it reads what no rule makes.

    Example:
        >>> from transformers import ASTConfig, ASTModel
        >>> ast = ASTModel(ASTConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1))
        >>> example_inputs(ast, ast.config)["input_values"].shape
        torch.Size([1, 1024, 128])
    """
    declared = declaration_of(config.model_type).inputs
    found = dict(declared(model)) if declared is not None else _made(type(model), config, tokens)
    if declared is None and "input_features" in found and _reads_channels_first(model, found["input_features"]):
        found["input_features"] = found["input_features"].transpose(1, 2)
    return {n: t.to(device, model.dtype if t.is_floating_point() else None) for n, t in found.items()}


def _reads_channels_first(model: PreTrainedModel, features: Tensor) -> bool:
    """Whether the first convolution runs along the frames: it takes each band of the spectrogram as a channel."""
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d))), None)
    return isinstance(first, nn.Conv1d) and first.in_channels == features.shape[-1] != features.shape[-2]


def _made(model_class: type[PreTrainedModel], config: PreTrainedConfig, tokens: int) -> dict[str, Tensor]:
    main, name = main_input(model_class), model_class.__name__
    part = section(config, section_name(config, main))
    taken = inspect.signature(model_class.forward).parameters
    maker = _KINDS.get(main)
    try:
        found = maker(part, tokens, taken) if maker is not None else None
    except (AttributeError, TypeError) as error:
        raise UnsupportedFamilyError(
            f"{name} reads {main!r}, and its config does not say of what shape ({error}). {_declare(config)}"
        ) from error
    if found is None:
        raise UnsupportedFamilyError(
            f"{name} reads {main!r}, of which no small input is known; known are {', '.join(_KINDS)}. {_declare(config)}"
        )
    if reads_choices(model_class):
        found["input_ids"] = found["input_ids"].unsqueeze(1).repeat(1, CHOICES, 1)
    if reads_image_beside_text(config, model_class):
        for kind in {"pixel_values", "input_ids"} - {main}:
            found |= _KINDS[kind](section(config, section_name(config, kind)), tokens, taken) or {}
    if reads_states(config, model_class):  # without them, nothing reaches the cross-attention
        found["encoder_hidden_states"] = torch.zeros(1, tokens, part.encoder_hidden_size)
    decoder = nested_configs(config).get("decoder")
    if decoder is not None and "decoder_input_ids" in taken:
        found["decoder_input_ids"] = _text(decoder, tokens, {})["input_ids"]
    return found


def _declare(config: PreTrainedConfig) -> str:
    return f"Declare one with register_anatomy({config.model_type!r}, inputs=lambda model: {{'name': tensor, ...}})."


def _pixels(part: Any, tokens: int, taken: Mapping[str, Any]) -> dict[str, Tensor]:
    channels = next((v for n in ("num_channels", "in_chans") if isinstance(v := getattr(part, n, None), int)), 3)
    if "grid_thw" in taken:
        return _rows("pixel_values", part, taken) or {}
    if "spatial_shapes" in taken:  # images as rows of patches, each with its own grid
        side = math.isqrt(part.num_patches)
        return {
            "pixel_values": torch.zeros(1, side * side, channels * math.prod(as_pair(part.patch_size))),
            "pixel_attention_mask": torch.ones(1, side * side, dtype=torch.long),
            "spatial_shapes": torch.full((1, 2), side),
        }
    size = next((v for n in IMAGES if (v := getattr(part, n, None)) is not None), None)
    if size is None and stage_fields(part):
        size = _ANY_SIZE
    if size is None:
        raise AttributeError(f"it has none of {', '.join(IMAGES)}")
    height, width = as_pair(size)
    frames = frames_of(part)
    return {"pixel_values": torch.zeros(1, *([frames] if frames else []), channels, height, width)}


def _rows(name: str, part: Any, taken: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Images as rows of patches, and how many there are in time, height and width (Qwen's vision encoders)."""
    if "grid_thw" not in taken:
        return None
    merged = next((v for n in _MERGED if (v := getattr(part, n, None)) is not None), 1)
    side = 2 * as_pair(merged)[0]
    channels = next((v for n in ("num_channels", "in_channels") if isinstance(v := getattr(part, n, None), int)), 3)
    depth = next((v for n in _FRAMES_OF_A_PATCH if isinstance(v := getattr(part, n, None), int)), 1)
    size = channels * depth * math.prod(as_pair(part.patch_size))
    found = {name: torch.zeros(side * side, size), "grid_thw": torch.tensor([[1, side, side]])}
    return found | ({"merge_sizes": torch.tensor([1])} if "merge_sizes" in taken else {})


def _hidden_states(part: Any, tokens: int, taken: Mapping[str, Any]) -> dict[str, Tensor] | None:
    return _rows("hidden_states", part, taken)


def _video(part: Any, tokens: int, taken: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"pixel_values_videos": _pixels(part, tokens, taken)["pixel_values"]}


def _sound(part: Any, tokens: int, taken: Mapping[str, Any]) -> dict[str, Tensor]:
    if getattr(part, "conv_kernel", None) is None:
        return {"input_values": torch.zeros(1, part.max_length, part.num_mel_bins)}  # a spectrogram
    samples = tokens  # a waveform: as many samples as give so many frames
    for kernel, stride in zip(reversed(part.conv_kernel), reversed(part.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return {"input_values": torch.zeros(1, samples)}


def _features(part: Any, tokens: int, taken: Mapping[str, Any]) -> dict[str, Tensor]:
    size = next((v for n in _FEATURES if isinstance(v := getattr(part, n, None), int)), None)
    if size is None:
        raise AttributeError(f"it has none of {', '.join(_FEATURES)}")
    side = getattr(part, "spec_size", None)
    if isinstance(side, int):  # a spectrogram as an image of a channel, which is folded to a square (CLAP)
        found = {"input_features": torch.zeros(1, 1, side * (side // size), size)}
        return found | ({"is_longer": torch.zeros(1, 1, dtype=torch.bool)} if "is_longer" in taken else {})
    positions = getattr(part, "max_source_positions", None)
    if positions is not None and not hasattr(part, _FEATURES[0]):
        frames = 2 * positions  # Whisper reads a whole window, two frames a position
    else:
        frames = tokens * (getattr(part, "subsampling_factor", None) or 1)
    found = {"input_features": torch.zeros(1, frames, size)}
    if "input_features_mask" in taken:
        found["input_features_mask"] = torch.ones(1, frames, dtype=torch.long)
    return found


def _text(part: Any, tokens: int, taken: Mapping[str, Any]) -> dict[str, Tensor]:
    tokens = max(4, min(tokens, getattr(part, "max_position_embeddings", tokens) - 4))
    ids = torch.full((1, tokens), min(5, getattr(part, "vocab_size", 6) - 1), dtype=torch.long)
    separator = getattr(part, "sep_token_id", None)
    # question answering may ask for a question, a context and their separators
    if separator is not None and separator < getattr(part, "vocab_size", separator + 1):
        ids[:, -3:] = separator
    return {"input_ids": ids}


_KINDS: dict[str, Callable[[Any, int, Mapping[str, Any]], dict[str, Tensor] | None]] = {
    "pixel_values": _pixels,
    "pixel_values_videos": _video,
    "input_values": _sound,
    "input_features": _features,
    "input_ids": _text,
    "hidden_states": _hidden_states,
}


__all__ = [
    "example_inputs",
    "frames_of",
    "main_input",
    "reads_choices",
    "reads_image_beside_text",
    "reads_states",
    "token_rows",
]
