"""Size fields of a config: their canonical names, where they stand, and how to change them on a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.errors import InvalidSizeError


# Canonical (transformers) name -> other spellings in use. A spelling is a fact of the config, not of a family: the first
# one that the config has counts.
ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "dim", "d_model", "emb_dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layers", "num_layers", "encoder_layers"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "num_heads", "encoder_attention_heads"),
    "num_key_value_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim", "attention_head_size"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "d_ff", "mlp_dim"),
    "mlp_ratio": ("mlp_ratio",),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("max_position_embeddings",),
    "type_vocab_size": ("type_vocab_size",),
    "embedding_size": ("embedding_size",),
    "image_size": ("image_size",),
    "patch_size": ("patch_size",),
    "num_channels": ("num_channels",),
    "num_labels": ("num_labels",),
}
EPS_FIELDS = ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rms_norm_eps")
# Fields that repeat the width: they follow it as long as they equal it.
LINKED_TO_HIDDEN = (
    "pooler_output_size",
    "pooler_hidden_size",
    "embedding_size",
    "input_embedding_size",
    "out_hidden_size",
    "entity_emb_size",
    "output_hidden_size",
)
# How fields are called that may repeat the width of another part.
_REPEATS = ("hidden_size", "projection_size", "projection_dim", "project_dim")
# Lists of layer indices. In those of a kind, the layers that are named are built another way (global attention instead of
# windows); in those of outputs, something reads what the named layers hand on.
LAYER_KINDS = (
    "window_block_indices",
    "window_block_indexes",
    "residual_block_indices",
    "global_attn_indexes",
    "fullatt_block_indexes",
    "full_attn_idxs",
)
LAYER_OUTPUTS = (
    "backbone_out_indices",
    "deepstack_visual_indexes",
    "intermediate_layers_indices",
    "intermediate_hidden_state_indices",
)
# The largest size that anything is built for: a config from a file may hold any number, and a model of 10^5 layers, or a config
# with 10^9 labels, keeps a machine busy before its shapes are known.
LARGEST = {
    "num_hidden_layers": 4096,
    "num_labels": 1_000_000,
    "image_size": 16_384,
    "patch_size": 16_384,
    "num_channels": 65_536,
}
LARGEST_OTHER = 2**24
# Records of the checkpoint's past, not sizes, though they are integers.
_NO_SIZES = ("token_id", "_id", "id2label", "seed", "version", "offset")


def section_name(config: PreTrainedConfig, main_input: str) -> str:
    """Name of the nested config that says what one kind of input is like: `vision_config` for the images of CLIP, else ''.

    Where none has the usual name, it is the first that says how large images are, or how many tokens there are.
    """
    flat = native_name(config, "hidden_size") and native_name(config, "num_hidden_layers")
    parts = nested_configs(config)
    wanted, telling = (
        ("vision_config", "image_size") if main_input == "pixel_values" else ("text_config", "vocab_size")
    )
    if wanted in parts and not flat:
        return wanted
    told = (n for n, p in parts.items() if native_name(p, telling) is not None and native_name(p, "hidden_size"))
    return "" if flat and main_input != "pixel_values" else next(told, "")


def section(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """The config that holds the sizes: the config itself or its nested one."""
    return getattr(config, name) if name else config


def nested_configs(config: PreTrainedConfig) -> dict[str, PreTrainedConfig]:
    """The configs inside of a config, by the field that holds each (`text_config`, `backbone_config`)."""
    return {name: value for name, value in vars(config).items() if isinstance(value, PreTrainedConfig)}


def native_name(config: PreTrainedConfig, canonical: str) -> str | None:
    """The config's own spelling of a canonical size name, or None when it has none."""
    for alias in ALIASES.get(canonical, (canonical,)):
        mapped = type(config).attribute_map.get(alias, alias)
        if getattr(config, mapped, None) is not None:
            return mapped
    return None


def known_sizes(config: PreTrainedConfig) -> dict[str, str]:
    """Canonical name -> native name for every size the config carries."""
    found = {name: native_name(config, name) for name in ALIASES if name != "num_labels"}
    known = {name: native for name, native in found.items() if native is not None}
    return {n: native for n, native in known.items() if not _is_fraction(getattr(config, native))}


def _is_fraction(value: Any) -> bool:
    """Whether a value is no whole number (a ratio of 48/11), so that no size can be asked for by it."""
    return isinstance(value, float) and not value.is_integer()


def other_integers(config: PreTrainedConfig) -> list[str]:
    """Integer fields that are no canonical size: each may still drive a dimension (`max_2d_position_embeddings`)."""
    taken = set(known_sizes(config).values())
    fields = []
    for name, value in vars(config).items():
        if name.startswith("_") or name in taken or any(part in name for part in _NO_SIZES):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_OTHER:
            fields.append(name)
    return fields


def width_repeated(config: PreTrainedConfig, section_of: str) -> tuple[str, ...]:
    """Fields outside a section that are called a hidden or projected size and equal its width, each with the path to it.

    The width of another encoder is none of them: it is that encoder's own.

    Example:
        >>> from transformers import BlipConfig, DepthAnythingConfig
        >>> width_repeated(BlipConfig(), "vision_config"), width_repeated(DepthAnythingConfig(), "backbone_config")
        (('text_config.encoder_hidden_size', 'text_config.projection_dim'), ('reassemble_hidden_size',))
    """
    if not section_of:
        return ()
    part = section(config, section_of)
    width = getattr(part, native_name(part, "hidden_size") or "", None)
    found = []
    for place, other in {"": config, **nested_configs(config)}.items():
        own = native_name(other, "hidden_size") if native_name(other, "num_hidden_layers") else None
        found += [
            f"{place}.{name}".lstrip(".")
            for name, value in vars(other).items()
            if place != section_of and name.endswith(_REPEATS) and name != own and value == width
            and not isinstance(value, bool)
        ]  # fmt: skip
    return tuple(found)


def to_build(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy to build a model from and throw away: it shares the names of its labels, which may be thousands.

    Example:
        >>> from transformers import BertConfig
        >>> config = BertConfig(num_labels=3)
        >>> copied = to_build(config)
        >>> copied is config, copied.id2label is config.id2label, copied.num_labels
        (False, True, 3)
    """
    names = (getattr(config, name, None) for name in ("id2label", "label2id"))
    return copy.deepcopy(config, {id(value): value for value in names if value is not None})


def changed(
    config: PreTrainedConfig,
    section_of: str,
    values: Mapping[str, Any],
    per_layer: Collection[str] = (),
    outside: Mapping[str, Any] | None = None,
    copied: Callable[[PreTrainedConfig], PreTrainedConfig] = copy.deepcopy,
) -> PreTrainedConfig:
    """A copy of `config` with native fields of its size section changed.

    Args:
        config (`PreTrainedConfig`): the config. It is not changed.
        section_of (`str`): name of the nested config that holds the sizes, or `""`.
        values (`Mapping[str, Any]`): native name -> new value.
        per_layer (`Collection[str]`): fields with one entry for each layer; they are cut or cycled to another depth.
        outside (`Mapping[str, Any]`, *optional*): fields that stand elsewhere in the config, by the path that leads to each
            (`reassemble_hidden_size`, `text_config.encoder_hidden_size`) -> new value.
        copied (*optional*): makes the copy.
    """
    new = copied(config)
    part = section(new, section_of)
    depth = native_name(part, "num_hidden_layers")
    old_depth = getattr(part, depth) if depth else None
    for name, value in values.items():
        setattr(new if name == "num_labels" else part, name, value)
    for path, value in (outside or {}).items():
        place, _, name = path.rpartition(".")
        setattr(section(new, place), name, value)
    if depth and old_depth and getattr(part, depth) != old_depth:
        count = getattr(part, depth)
        for name in per_layer:
            value = getattr(part, name)
            setattr(part, name, type(value)(value[i % old_depth] for i in range(count)))
    return new


def largest(name: str) -> int:
    """The bound of a size by any of its spellings; fields that count layers of another part share that of the depth.

    Example:
        >>> largest("n_layers"), largest("decoder_num_hidden_layers"), largest("dim")
        (4096, 4096, 16777216)
    """
    canonical = next((c for c, spellings in ALIASES.items() if name in spellings), name)
    if canonical.endswith(("layers", "depth")):
        canonical = "num_hidden_layers"
    return LARGEST.get(canonical, LARGEST_OTHER)


def check_bounds(sizes: Mapping[str, Any]) -> None:
    """Refuses sizes that are too large to build anything for, not even on `meta`.

    Args:
        sizes (`Mapping[str, Any]`): size name -> value, or a config as plain data. What is no size is passed over.

    Raises:
        InvalidSizeError: a size beyond its bound.
    """
    for name, value in sizes.items():
        counts = name in _SPELLINGS or name.endswith(("layers", "depth"))
        entries = value if isinstance(value, (list, tuple)) and name in ("image_size", "patch_size") else (value,)
        for entry in entries:
            if counts and isinstance(entry, int) and not isinstance(entry, bool) and entry > largest(name):
                raise InvalidSizeError(f"{name} is at most {largest(name):,}; it was {entry:,}.")


_SPELLINGS = frozenset(spelling for spellings in ALIASES.values() for spelling in spellings)


def as_pair(value: Any) -> tuple[int, int]:
    """Height and width of an `image_size` or `patch_size`, which may be a number or a pair."""
    if isinstance(value, (list, tuple)):
        return int(value[0]), int(value[-1])
    return int(value), int(value)
