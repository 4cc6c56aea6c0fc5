"""Stages of a hierarchy: what their sizes are called, how a config says them, and what is known of their blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig


def staged(name: str, stage: int) -> str:
    """Name of an axis or a size of one stage of a hierarchy.

    Example:
        >>> staged("hidden_size", 2)
        'hidden_size.2'
    """
    return f"{name}.{stage}"


def sizes_of_stage(sizes: Mapping[str, Any], stage: int) -> dict[str, Any]:
    """Sizes of one stage under their plain names, with those that no stage has of its own.

    Example:
        >>> sizes_of_stage({"hidden_size.0": 96, "hidden_size.1": 192, "num_labels": 2}, 1)
        {'hidden_size': 192, 'num_labels': 2}
    """
    found = {}
    for name, value in sizes.items():
        plain, dot, place = name.rpartition(".")
        if not dot:
            found[name] = value
        elif place == str(stage):
            found[plain] = value
    return found


@dataclass(frozen=True)
class StageField:
    """How a config says one size of every stage: in a list, or as one number for the first stage that every further multiplies.

    Attributes:
        native: name of the field.
        factor: what each further stage multiplies the number by (Swin's `embed_dim`); None for a list.

    Example:
        >>> StageField("embed_dim", 2).read(96, 4), StageField("embed_dim", 2).written(96, [64, 128, 256, 512])
        ((96, 192, 384, 768), 64)
    """

    native: str
    factor: int | None = None

    def read(self, value: Any, stages: int) -> tuple[int, ...]:
        """The size of each stage."""
        if self.factor is None:
            return tuple(int(v) for v in value)
        return tuple(int(value) * self.factor**stage for stage in range(stages))

    def written(self, current: Any, sizes: Sequence[int]) -> Any:
        """What the config has to say for sizes of the stages; the form of `current` is kept."""
        if self.factor is not None:
            return sizes[0]
        whole = [float(n) if isinstance(old, float) else n for old, n in zip(current, sizes, strict=True)]
        return type(current)(whole)


@dataclass(frozen=True)
class StageBlocks:
    """What is known of the blocks of one stage.

    Attributes:
        period: how many blocks alternate (2 where every other one shifts its windows); 1 where all are alike.
        lead: how many first blocks are of another kind than the rest (Hiera's, which holds the transition) and keep their place.
    """

    period: int = 1
    lead: int = 0


# Canonical size name -> spellings of the list that holds it for every stage. A config with such a list of depths is a hierarchy.
_DEPTHS = ("depths", "depth")
_WIDTHS = ("hidden_sizes", "embed_dims", "embed_dim", "patch_embeds_hidden_size")
_HEADS = ("num_attention_heads", "num_heads")
_RATIOS = ("mlp_ratios", "mlp_ratio")
# What a config's own number by such a name is not, in a hierarchy: Swin's `num_layers` are its stages.
OF_STAGES = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def stage_fields(part: PreTrainedConfig) -> dict[str, StageField]:
    """How a config says the depth, width, heads and ffn ratio of every stage; nothing where it is no hierarchy.

    Example:
        >>> from transformers import BertConfig, SwinConfig
        >>> [field.native for field in stage_fields(SwinConfig()).values()], stage_fields(BertConfig())
        (['depths', 'embed_dim', 'num_heads'], {})
    """
    depths = next((n for n in _DEPTHS if _is_list(getattr(part, n, None))), None)
    stages = len(getattr(part, depths, None) or ()) if depths is not None else 0
    if depths is None or stages < 2:
        return {}
    found = {"num_hidden_layers": StageField(depths)}
    if widths := width_fields(part):
        found["hidden_size"] = widths[0]
    for size, names in (("num_attention_heads", _HEADS), ("mlp_ratio", _RATIOS)):
        native = next((n for n in names if _is_list(v := getattr(part, n, None)) and len(v or ()) == stages), None)
        if native is not None:
            found[size] = StageField(type(part).attribute_map.get(native, native))
    return found


def width_fields(part: PreTrainedConfig) -> list[StageField]:
    """Every way in which a config may say the widths of its stages, the likeliest first."""
    found = []
    for name in _WIDTHS:
        value = getattr(part, name, None)
        if _is_list(value):
            found.append(StageField(name))
        elif isinstance(value, int) and not isinstance(value, bool):
            factor = int(getattr(part, f"{name}_multiplier", 2))
            found += [StageField(name, factor), StageField(name, 1)]
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value)


def stage_values(part: PreTrainedConfig, fields: Mapping[str, StageField]) -> dict[str, tuple[int, ...]]:
    """The sizes of every stage by canonical name, those that are whole numbers."""
    stages = len(getattr(part, fields["num_hidden_layers"].native))
    found = {}
    for name, field in fields.items():
        value = getattr(part, field.native)
        whole = value if isinstance(value, (list, tuple)) else [value]
        if all(float(v).is_integer() for v in whole):
            found[name] = field.read(value, stages)
    return found


def in_stages(values: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
    """Lists over stages as sizes of each stage.

    Example:
        >>> in_stages({"hidden_size": (96, 192)})
        {'hidden_size.0': 96, 'hidden_size.1': 192}
    """
    return {staged(name, stage): value for name, each in values.items() for stage, value in enumerate(each)}


def listed(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes with those of single stages gathered in lists, for people and records.

    Example:
        >>> listed({"hidden_size.0": 96, "hidden_size.1": 192, "num_labels": 2})
        {'hidden_size': [96, 192], 'num_labels': 2}
    """
    found: dict[str, Any] = {}
    for name, value in sizes.items():
        plain, dot, place = name.rpartition(".")
        if dot and place.isdigit():
            found.setdefault(plain, []).append(value)
        else:
            found[name] = value
    return found
