"""From what the caller asks for to the target's config."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.config_fields import ALIASES, as_pair, changed, largest, section
from hf_learngene.anatomy.stages import listed
from hf_learngene.anatomy.types import POSITIONS, RELATIVE_LINE
from hf_learngene.errors import InvalidSizeError, UnknownOptionError
from hf_learngene.maps import LayerMap
from hf_learngene.maps.task import flat_heads
from hf_learngene.resizing.layer_fields import follow_layers
from hf_learngene.resizing.stage_sizes import by_stage, complete_stages, stage_settings


_FIXED_SIZES = ("num_labels",)
# Keywords of other calls, and what stands for them where sizes are named.
_CALIBRATION = (
    "resize, from_pretrained_resized and `condensed` learngenes take calibration examples, with processing_class= for raw "
    "texts and images."
)
_WORDS = {  # what people call a size
    "hidden_size": ("width", "hidden", "hidden_dims", "model_dim"),
    "num_hidden_layers": ("depth", "layers", "n_layer", "num_blocks", "blocks"),
    "num_attention_heads": ("heads", "n_head", "attention_heads"),
    "intermediate_size": ("ffn", "ffn_size", "ff_dim", "mlp", "mlp_size"),
}
_ELSEWHERE = {
    "tokenizer": "A tokenizer is processing_class= beside calibration=, and tokenizer= in save_resized.",
    "image_processor": "An image processor is processing_class= beside calibration=.",
    "processor": "A processor is processing_class= beside calibration=.",
    "calibration": _CALIBRATION,
    "calibration_data": _CALIBRATION,
    "processing_class": _CALIBRATION,
    "dataset": _CALIBRATION,
    "examples": _CALIBRATION,
    "inputs": "verify takes inputs; a plan and a resize need none.",
    "source": "save_resized takes source=; here the source comes first, without a keyword.",
    "overwrite": "save_resized takes overwrite=.",
    "task": "model_class= chooses the head.",
    "learngene_type": "AutoLearngene.from_ancestry takes learngene_type=.",
}


def canonical(anatomy: Anatomy, name: str) -> str | None:
    """Canonical name of a size field that this family has, from any of its spellings; None if it has none."""
    known = {**anatomy.fields, **dict.fromkeys(_FIXED_SIZES, "num_labels")}
    if name in known:
        return name
    for size, native in known.items():
        if name == native or name in ALIASES.get(size, ()):
            return size
    if name == "head_dim" and anatomy.head_dim_honoured:
        return name
    if name == "intermediate_size" and "mlp_ratio" in anatomy.fields and not anatomy.num_stages:
        return name
    return None


def size_names(anatomy: Anatomy) -> list[str]:
    """Every size this family can be asked for, in the family's own spelling."""
    names = [native for size, native in anatomy.fields.items() if "+" not in size]
    extra = ["head_dim"] if anatomy.head_dim_honoured and "head_dim" not in names else []
    return sorted({*names, *extra, *_FIXED_SIZES})


def check_names(anatomy: Anatomy, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The request by canonical names.

    Raises:
        UnknownOptionError: a field that this family does not have.
        InvalidSizeError: a value that is no positive whole number.
    """
    found, rest = by_stage(anatomy, sizes, _whole)
    for name, value in rest.items():
        known = canonical(anatomy, name)
        if known is None:
            names = size_names(anatomy)
            raise UnknownOptionError(
                f"`{anatomy.model_type}` has no size field {name!r}; it has {', '.join(names)}.{_hint(name, names)}"
            )
        if known in found:
            first = next(n for n in rest if canonical(anatomy, n) == known)
            raise UnknownOptionError(f"{first!r} and {name!r} are the same size; give one of them.")
        found[known] = _checked(name, value)
    return found


def _hint(name: str, names: list[str]) -> str:
    """Where a keyword belongs that is no size, or the size that was meant, if it is written almost like one."""
    if name in _ELSEWHERE:
        return f" {_ELSEWHERE[name]}"
    meant = size_meant(name)
    if any(f"{field!r}" in meant for field in names):
        return f" {meant}"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f" Did you mean {close[0]!r}?" if close else ""


def size_meant(name: str) -> str:
    """A sentence that names the size field for a word that people use for it, or nothing.

    Example:
        >>> size_meant("depth")
        "Did you mean 'num_hidden_layers'?"
    """
    found = next((field for field, words in _WORDS.items() if name in words), None)
    return f"Did you mean {found!r}?" if found else ""


def _checked(name: str, value: Any) -> Any:
    if name in ("image_size", "patch_size") and isinstance(value, (list, tuple)) and len(value) == 2:
        return tuple(_checked(name, v) for v in value)
    return _whole(name, value, name)


def _whole(said: str, value: Any, name: str) -> int:
    """The whole number that a size is, within its bounds."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        hint = f" Did you mean {int(value)}?" if isinstance(value, float) and value > 0 and value.is_integer() else ""
        raise InvalidSizeError(f"{said} is a whole number; it was {value!r}.{hint}")
    size = int(value)  # numpy has whole numbers of its own, which no config.json can hold
    if size <= 0:
        raise InvalidSizeError(f"{said} is at least 1; it was {size}.")
    if size > largest(name):
        raise InvalidSizeError(f"{said} is at most {largest(name):,}; it was {size:,}.")
    return size


def complete(anatomy: Anatomy, config: PreTrainedConfig, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """All sizes of the target by canonical name: what was asked for, and the rest in the source's proportions.

    The head size is kept and the number of heads follows the width; the ffn keeps its ratio, rounded.

    Raises:
        InvalidSizeError: sizes that do not divide, with the nearest that do.
    """
    if anatomy.num_stages:
        _check_counted_together(anatomy, wanted)
        return complete_stages(anatomy, wanted)
    part = section(config, anatomy.section)
    sizes: dict[str, Any] = {**anatomy.sizes, **wanted}
    hidden, old_hidden = sizes["hidden_size"], anatomy.sizes["hidden_size"]
    _complete_heads(anatomy, part, wanted, sizes)
    if "intermediate_size" in anatomy.sizes and "intermediate_size" not in wanted:
        sizes["intermediate_size"] = max(1, round(anatomy.sizes["intermediate_size"] * hidden / old_hidden))
    if "mlp_ratio" in anatomy.fields and "intermediate_size" in wanted:
        ratio = wanted["intermediate_size"] / hidden
        if not ratio.is_integer():
            low = max(1, math.floor(ratio)) * hidden
            raise InvalidSizeError(
                f"`{anatomy.model_type}` writes its ffn as mlp_ratio × hidden_size: "
                f"intermediate_size={wanted['intermediate_size']} is no multiple of {hidden}. "
                f"The nearest are {low} and {low + hidden}."
            )
        sizes["mlp_ratio"] = int(ratio)
        sizes.pop("intermediate_size")
    for linked in anatomy.linked:  # left out, it follows whatever width a pass has
        if linked not in wanted:
            sizes.pop(linked, None)
    _check_positions(anatomy, wanted)
    _check_counted_together(anatomy, wanted)
    if "image_size" in sizes or "patch_size" in wanted:
        _check_grid(part, anatomy, wanted)
    return sizes


def _complete_heads(
    anatomy: Anatomy, part: PreTrainedConfig, wanted: Mapping[str, Any], sizes: dict[str, Any]
) -> None:
    if "num_attention_heads" not in anatomy.sizes:
        return
    hidden, head_dim = sizes["hidden_size"], anatomy.sizes["head_dim"]
    stored = anatomy.head_dim_honoured and getattr(part, anatomy.fields.get("head_dim", "head_dim"), None) is not None
    own = (
        "; or give num_attention_heads and head_dim, which this family keeps apart from the width"
        if anatomy.head_dim_honoured
        else ""
    )
    native = anatomy.fields["num_attention_heads"]
    if "head_dim" in wanted:
        head_dim = wanted["head_dim"]
        if "num_attention_heads" not in wanted and hidden % head_dim == 0:
            sizes["num_attention_heads"] = hidden // head_dim
    elif "num_attention_heads" in wanted:
        heads = wanted["num_attention_heads"]
        if not stored:
            if hidden % heads:
                low, high = _near_divisors(hidden, heads)
                raise InvalidSizeError(
                    f"hidden_size={hidden} is not divisible by {native}={heads}. The nearest numbers of heads are "
                    f"{_either(low, high)}; the nearest widths are {_around(hidden, heads)}{own}."
                )
            head_dim = hidden // heads
    elif hidden != anatomy.sizes["hidden_size"]:
        ratio = hidden * anatomy.sizes["num_attention_heads"]
        if stored and ratio % anatomy.sizes["hidden_size"] == 0:
            sizes["num_attention_heads"] = ratio // anatomy.sizes["hidden_size"]
        elif hidden % head_dim == 0:
            sizes["num_attention_heads"] = hidden // head_dim
        else:
            heads = anatomy.sizes["num_attention_heads"]
            kept = (
                f" ({native}={heads} as in the source, with heads of {hidden // heads})" if hidden % heads == 0 else ""
            )
            raise InvalidSizeError(
                f"hidden_size={hidden} cannot keep the source's head size of {head_dim}. The nearest widths are "
                f"{_around(hidden, head_dim)}; or give {native} too, a divisor of {hidden}{kept}{own}."
            )
    sizes["head_dim"] = head_dim
    if not anatomy.head_dim_honoured and sizes["num_attention_heads"] * head_dim != hidden:
        raise InvalidSizeError(
            f"`{anatomy.model_type}` has hidden_size = {native} × head size; "
            f"{hidden} is not {sizes['num_attention_heads']} × {head_dim}."
        )
    kv = anatomy.sizes.get("num_key_value_heads")
    if kv and "num_key_value_heads" not in wanted:
        scaled = kv * sizes["num_attention_heads"] / anatomy.sizes["num_attention_heads"]
        if not scaled.is_integer():
            raise InvalidSizeError(
                f"{sizes['num_attention_heads']} heads cannot share key and value heads as the source's "
                f"{anatomy.sizes['num_attention_heads']} share {kv}; give num_key_value_heads, a divisor of "
                f"{sizes['num_attention_heads']}."
            )
        sizes["num_key_value_heads"] = int(scaled)


def _around(value: int, step: int) -> str:
    low = value // step * step
    return f"{low} and {low + step}" if low else str(step)


def _either(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} and {high}"


def _near_divisors(value: int, near: int) -> tuple[int, int]:
    small = [n for n in range(1, math.isqrt(value) + 1) if value % n == 0]
    divisors = [*small, *(value // n for n in small)]
    return max(d for d in divisors if d <= near), min(d for d in divisors if d >= min(near, value))


def _check_positions(anatomy: Anatomy, wanted: Mapping[str, Any]) -> None:
    old, new = anatomy.sizes.get("max_position_embeddings"), wanted.get("max_position_embeddings")
    axes = {d.axis for t in anatomy.templates.values() for d in t.dims}
    if new is None or new == old or (POSITIONS in axes and RELATIVE_LINE not in axes):
        return
    if RELATIVE_LINE in axes or "position_buckets" in axes:
        raise InvalidSizeError(
            f"`{anatomy.model_type}` has a table of distances between positions, which means something else at another "
            f"length. Keep max_position_embeddings at {old}."
        )
    raise InvalidSizeError(
        f"No tensor of `{anatomy.model_type}` depends on max_position_embeddings ({old}). Leave it out, and set it on the "
        "config of the result if you need another limit."
    )


def _check_counted_together(anatomy: Anatomy, wanted: Mapping[str, Any]) -> None:
    """Refuses a size that counts the rows of an embedding together with others: which row is what would not be known."""
    for tensor in anatomy.templates.values():
        for dim in tensor.dims:
            fields = dim.axis.split("+")
            asked = next((n for n in fields if n in wanted and wanted[n] != anatomy.sizes.get(n)), None)
            if asked and len(fields) > 1 and tensor.writes_stream and not dim.counted_together:
                raise InvalidSizeError(
                    f"{asked} cannot change: `{tensor.template}` of `{anatomy.model_type}` has {dim.size} entries that "
                    f"{' and '.join(fields)} count together. Leave it out."
                )


def _check_grid(part: PreTrainedConfig, anatomy: Anatomy, wanted: Mapping[str, Any]) -> None:
    if not {"image_size", "patch_size"} & set(wanted) or not {"image_size", "patch_size"} <= anatomy.fields.keys():
        return
    image = as_pair(wanted.get("image_size", part.image_size))
    patch = as_pair(wanted.get("patch_size", part.patch_size))
    for side, step in zip(image, patch, strict=True):
        if side < step:
            raise InvalidSizeError(f"image_size={side} is smaller than one patch of {step}; the smallest is {step}.")
    uneven = [(side, step) for side, step in zip(image, patch, strict=True) if side % step]
    if uneven and "image_size" in wanted:
        side, step = uneven[0]
        raise InvalidSizeError(
            f"image_size={side} is no multiple of patch_size={step}; the nearest sizes are {_around(side, step)}."
        )


def target_config(
    config: PreTrainedConfig, anatomy: Anatomy, sizes: Mapping[str, Any], layer_map: LayerMap, edits: Mapping[str, Any]
) -> PreTrainedConfig:
    """A copy of the source's config at the target's sizes, with everything derived from them brought along."""
    part = section(config, anatomy.section)
    values: dict[str, Any] = stage_settings(config, anatomy, sizes) if anatomy.num_stages else {}
    for size, value in sizes.items():
        if anatomy.num_stages and "." in size:
            continue
        if size == "head_dim":
            own = anatomy.fields.get(size, size)
            stored = vars(part).get(own) is not None
            if stored or (
                anatomy.head_dim_honoured and (getattr(part, own, None) is not None or _head_dim_needed(sizes))
            ):
                values[own] = value
            continue
        native = anatomy.fields.get(size, size)
        if size != "num_labels" and (hasattr(part, native) or size in anatomy.fields):
            current = getattr(part, native, None)
            values[native] = _spelled_as(current, value)
    if getattr(part, "encoder_stride", None) is not None and part.encoder_stride == getattr(part, "patch_size", None):
        values["encoder_stride"] = values.get("patch_size", part.encoder_stride)
    for linked in anatomy.linked:
        if linked not in sizes and not anatomy.num_stages:
            values[linked] = sizes["hidden_size"]
    try:
        outside = dict.fromkeys(anatomy.followers, sizes.get("hidden_size"))
        target = changed(config, anatomy.section, {**values, **edits}, anatomy.per_layer, outside)
        if not anatomy.num_stages:  # what is read of a hierarchy is read behind its stages, which stay as many
            follow_layers(section(target, anatomy.section), part, anatomy, layer_map)
        if sizes["num_labels"] != config.num_labels:
            target.num_labels = sizes["num_labels"]
    except Exception as error:  # configs check their fields as they are set
        raise InvalidSizeError(
            f"The config of `{anatomy.model_type}` refuses {describe(sizes, anatomy.sizes)}: {error}"
        ) from error
    return target


def config_at(config: PreTrainedConfig, anatomy: Anatomy, wanted: Mapping[str, Any]) -> PreTrainedConfig:
    """The config at given sizes, whatever the method that makes the weights.

    Raises:
        InvalidSizeError: sizes that do not divide, or that the config refuses.
    """
    sizes = complete(anatomy, config, wanted)
    if anatomy.num_stages:
        return target_config(config, anatomy, sizes, LayerMap(()), {})
    depth = sizes["num_hidden_layers"]
    spread = LayerMap.spread if depth <= anatomy.num_layers else LayerMap.insert
    return target_config(config, anatomy, sizes, spread(anatomy.num_layers, depth), {})


def _spelled_as(current: Any, value: Any) -> Any:
    """A size as the config has it: one number or a pair, whole or not. Many families take only one of the two."""
    if isinstance(current, float) and isinstance(value, int):
        return float(value)
    if isinstance(current, (list, tuple)) and isinstance(value, int):
        return type(current)((value, value))
    if isinstance(current, int) and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


def _head_dim_needed(sizes: Mapping[str, Any]) -> bool:
    return flat_heads(sizes) != sizes["hidden_size"]


def raw_sizes(config: PreTrainedConfig, anatomy: Anatomy, names: Iterable[str]) -> dict[str, Any]:
    """The source's values of sizes that its anatomy does not count, by canonical name."""
    part = section(config, anatomy.section)
    found = {n: getattr(part, anatomy.fields.get(n, n), None) for n in names if n not in anatomy.sizes}
    return {n: v for n, v in found.items() if v is not None}


def describe(sizes: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """What changes, in a line: `hidden_size 768 → 384, num_attention_heads 12 → 6`."""
    sizes, before = listed(sizes), listed(before)
    changes = [f"{n} {before[n]} → {v}" for n, v in sizes.items() if n in before and before[n] != v]
    return ", ".join(changes) or "nothing"
