"""Smaller copies of a config, on which what does not depend on sizes is found faster: the flow of a pass, roles, axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.anatomy.config_fields import (
    LINKED_TO_HIDDEN,
    as_pair,
    changed,
    native_name,
    nested_configs,
    section,
    width_repeated,
)
from hf_learngene.anatomy.inputs import FRAMES, IMAGES


_HEAD = 16  # dimensions of a narrow model's heads
_SPARE = 8  # tokens behind the last special one
_PARTS = ("coordinate_size", "shape_size")  # tables that stand beside each other in the width (LayoutLM)
_PATCHES = 2  # in height and in width, of a small image


def narrow(config: PreTrainedConfig, section_of: str) -> PreTrainedConfig | None:
    """The config with small heads, and with no more tokens than the special ones need; None where it is small already.

    Fields elsewhere that repeat its width follow it, and other sections have few tokens too.

    Args:
        config (`PreTrainedConfig`): the config. It is not changed.
        section_of (`str`): name of the nested config that holds the sizes, or `""`.

    Example:
        >>> from transformers import BertConfig
        >>> small = narrow(BertConfig(), "")
        >>> small.hidden_size, small.num_attention_heads, small.intermediate_size, small.vocab_size
        (192, 12, 768, 9)
    """
    part = section(config, section_of)
    names = {
        n: native_name(part, n) for n in ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    }
    value = {n: getattr(part, native) for n, native in names.items() if native is not None}
    hidden, heads = value.get("hidden_size"), value.get("num_attention_heads")
    if not isinstance(hidden, int) or not isinstance(heads, int) or hidden % heads or hidden // heads <= _HEAD:
        return None
    small = {
        native: _HEAD * heads for native in (names["hidden_size"], *LINKED_TO_HIDDEN) if _is(part, native, hidden)
    }
    small |= {n: _HEAD for n in ("head_dim", "attention_head_size") if _is(part, n, hidden // heads)}
    if isinstance(width := value.get("intermediate_size"), int):
        small[names["intermediate_size"]] = max(1, width * _HEAD * heads // hidden)
    for name in _PARTS:
        if isinstance(width := getattr(part, name, None), int) and width * _HEAD * heads % hidden == 0:
            small[name] = width * _HEAD * heads // hidden
    outside = dict.fromkeys(width_repeated(config, section_of), _HEAD * heads) | _few_rows(config)
    return changed(config, section_of, {n: v for n, v in small.items() if n is not None}, outside=outside)


def thin(config: PreTrainedConfig, section_of: str) -> PreTrainedConfig:
    """The narrow config, or where it is small already itself, with one layer in every other section.

    Args:
        config (`PreTrainedConfig`): the config. It is not changed.
        section_of (`str`): name of the nested config that holds the sizes.

    Example:
        >>> from transformers import CLIPConfig
        >>> small = thin(CLIPConfig(), "vision_config")
        >>> small.vision_config.hidden_size, small.text_config.num_hidden_layers
        (192, 1)
    """
    depths = {name: native_name(other, "num_hidden_layers") for name, other in nested_configs(config).items()}
    outside = {f"{name}.{depth}": 1 for name, depth in depths.items() if depth is not None and name != section_of}
    return changed(narrow(config, section_of) or config, section_of, {}, outside=outside)


def light(config: PreTrainedConfig, section_of: str) -> PreTrainedConfig:
    """The config with sizes as they are, but no more tokens than the special ones need, and small images in other sections.

    A pass on the CPU over a large vocabulary, or through the whole image of an encoder beside this one, takes seconds.

    Args:
        config (`PreTrainedConfig`): the config. It is not changed.
        section_of (`str`): name of the nested config that holds the sizes, or `""`.

    Example:
        >>> from transformers import BlipConfig
        >>> small = light(BlipConfig(), "text_config")
        >>> small.text_config.vocab_size < 31000, small.text_config.hidden_size, small.vision_config.image_size
        (True, 768, 32)
    """
    outside: dict[str, Any] = _few_rows(config)
    for name, other in nested_configs(config).items():
        image, patch = (getattr(other, field, None) for field in ("image_size", "patch_size"))
        if section_of and name != section_of and isinstance(image, int) and isinstance(patch, int):
            outside[f"{name}.image_size"] = min(image, _PATCHES * patch)
    return changed(config, section_of, {}, outside=outside)


def few_tokens(config: PreTrainedConfig, section_of: str, factor: int) -> PreTrainedConfig | None:
    """The config for a video of the smallest frames, and the same with more of them; None where a config is for none.

    Args:
        config (`PreTrainedConfig`): the config. It is not changed.
        section_of (`str`): name of the nested config that holds the sizes, or `""`.
        factor (`int`): patches in height and in width; twice as many tubelets follow one another.

    Example:
        >>> from transformers import VideoMAEConfig
        >>> few = few_tokens(VideoMAEConfig(), "", 1)
        >>> few.image_size, few.num_frames
        (16, 4)
    """
    part = section(config, section_of)
    image = next((n for n in IMAGES if getattr(part, n, None) is not None), None)
    frames = next((n for n in FRAMES if isinstance(getattr(part, n, None), int)), None)
    tubelet: Any = getattr(part, "tubelet_size", 1)
    steps, *tiles = tubelet if isinstance(tubelet, (list, tuple)) else (tubelet,)
    patch = getattr(part, "patch_size", tuple(tiles) or None)  # ViViT has both in one
    if image is None or frames is None or patch is None:
        return None
    sides = tuple(factor * side for side in as_pair(patch))
    current = getattr(part, image)
    pair = type(current)(sides) if isinstance(current, (list, tuple)) else sides[0]
    return changed(config, section_of, {image: pair, frames: 2 * factor * steps})


def _few_rows(config: PreTrainedConfig) -> dict[str, int]:
    """Field of a vocabulary's size, with its section -> no more rows than the special tokens need."""
    found = {}
    for place, other in {"": config, **nested_configs(config)}.items():
        native = native_name(other, "vocab_size")
        if native in vars(other) and isinstance(rows := getattr(other, str(native)), int):
            few = 1 + max(_token_ids(config, other), default=0) + _SPARE
            found[f"{place}.{native}".lstrip(".")] = min(rows, few)
    return found


def _is(part: PreTrainedConfig, name: str | None, size: int) -> bool:
    return name is not None and vars(part).get(name) == size


def _token_ids(*configs: PreTrainedConfig) -> Iterator[int]:
    """Ids of special tokens."""
    for config in configs:
        for name, value in vars(config).items():
            if name.endswith("token_id"):
                yield from (i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int))
