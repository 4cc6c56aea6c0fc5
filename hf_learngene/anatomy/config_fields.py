"""Size fields of a config: their canonical names, where they stand, and how to change them on a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig


# Canonical (transformers) name -> other spellings in use. A spelling is a fact of the config, not of a family: the first
# one that the config has counts.
ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "dim", "d_model", "emb_dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layers", "num_layers", "encoder_layers"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "num_heads", "encoder_attention_heads"),
    "num_key_value_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "intermediate_size": ("intermediate_size", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "d_ff"),
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
)
# Records of the checkpoint's past, not sizes, though they are integers.
_NO_SIZES = ("token_id", "_id", "id2label", "seed", "version", "offset")


def section_name(config: PreTrainedConfig, main_input: str) -> str:
    """Name of the nested config that describes the encoder: `vision_config` for the image side of CLIP, else ''."""
    if native_name(config, "hidden_size") and native_name(config, "num_hidden_layers"):
        return ""
    wanted = "vision_config" if main_input == "pixel_values" else "text_config"
    return wanted if isinstance(getattr(config, wanted, None), PreTrainedConfig) else ""


def section(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """The config that holds the sizes: the config itself or its nested one."""
    return getattr(config, name) if name else config


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
    return {name: native for name, native in found.items() if native is not None}


def other_integers(config: PreTrainedConfig) -> list[str]:
    """Integer fields that are no canonical size: each may still drive a dimension (`max_2d_position_embeddings`)."""
    taken = set(known_sizes(config).values())
    fields = []
    for name, value in vars(config).items():
        if name.startswith("_") or name in taken or any(part in name for part in _NO_SIZES):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            fields.append(name)
    return fields


def changed(config: PreTrainedConfig, section_of: str, values: Mapping[str, Any]) -> PreTrainedConfig:
    """A copy of `config` with native fields of its size section changed, and per-layer lists cut or cycled to the depth."""
    new = copy.deepcopy(config)
    part = section(new, section_of)
    depth = native_name(part, "num_hidden_layers")
    old_depth = getattr(part, depth) if depth else None
    for name, value in values.items():
        setattr(new if name == "num_labels" else part, name, value)
    if depth and old_depth and getattr(part, depth) != old_depth:
        count = getattr(part, depth)
        for name, value in per_layer_lists(part, old_depth).items():
            setattr(part, name, type(value)(value[i % old_depth] for i in range(count)))
    return new


def per_layer_lists(config: PreTrainedConfig, depth: int) -> dict[str, list | tuple]:
    """Fields that hold one entry per layer (`layer_types`, `attention_window`)."""
    skip = (
        "out_features",
        "out_indices",
        "stage_names",
        "architectures",
        "image_size",
        "patch_size",
        "pos_att_type",
        "languages",
    )
    return {
        name: value
        for name, value in vars(config).items()
        if name.lstrip("_") not in skip and isinstance(value, (list, tuple)) and len(value) == depth
    }


def as_pair(value: Any) -> tuple[int, int]:
    """Height and width of an `image_size` or `patch_size`, which may be a number or a pair."""
    if isinstance(value, (list, tuple)):
        return int(value[0]), int(value[-1])
    return int(value), int(value)
