"""A miniature of one growth: the same class, options and kinds of change, at sizes that take milliseconds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.config_fields import (
    LAYER_OUTPUTS,
    as_pair,
    native_name,
    nested_configs,
    section,
    width_repeated,
)
from hf_learngene.anatomy.small import few_tokens
from hf_learngene.anatomy.types import AXES
from hf_learngene.maps import LayerMap
from hf_learngene.maps.task import GEOMETRY, changes, own_axes
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.sizes import target_config
from hf_learngene.resizing.stage_miniature import stage_sizes


TOKENS = 64
LABELS = 3
LAYERS = 3
_ROWS = 2048  # a longer table (Luke's half a million entities) is cut to TOKENS rows
_PATCH = 4
_SIDE = 224  # of an image of a hierarchy: the grids behind every stage are those of a plain one
_WINDOW = 8
_SMALL = 2_000_000  # parameters
_SIDES = (4, 3)  # patches of a small image, where the real one has an even or an odd number of them
_HEAD = 8
_FFN = 1.5  # of the width
# Sizes of what the size section does not describe, such as the vision tower beside a text encoder.
_OTHER_SECTION = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1}


@dataclass(frozen=True, eq=False)
class Miniature:
    """A small config, and what the growth makes of it.

    Attributes:
        config: of the small source.
        sizes: of its target, by canonical name, all of them.
    """

    config: PreTrainedConfig
    sizes: Mapping[str, Any]


def grows(step: Pass) -> bool:
    """Whether a pass grows a width or the depth; geometry has no direction."""
    source, target = step.task.source, step.task.target
    return any(new.num_layers > old.num_layers for old, new in zip(source.parts, target.parts, strict=True)) or any(
        new.size > old.size
        for name, tensor in source.templates.items()
        if name in target.templates
        for old, new in zip(tensor.dims, target.templates[name].dims, strict=False)
        if old.side != "-" and old.axis not in GEOMETRY
    )


def miniatures(step: Pass) -> Iterator[Miniature]:
    """Miniatures of a growth, the smallest first: a family may refuse one and take the next.

    Some families tie sizes to each other in ways that only their constructor knows: then the image, the depth, or all of a
    growth that is small already stay as they are.

    Args:
        step: the pass that grows.
    """
    source, target = step.task.source, step.task.target
    if source.num_stages:
        part = section(step.source_config, source.section)
        for side, shallow in ((_SIDE, True), (2 * _SIDE, True), (None, True), (None, False)):
            old, new = stage_sizes(source, part, step.sizes, side, shallow)
            small = _small_token_ids(step.source_config)
            small._attn_implementation = None
            yield Miniature(target_config(small, source, old, LayerMap(()), {}), new)
        return
    few = _few_layers(source, section(step.source_config, source.section))
    whole = LayerMap.pick(range(source.num_layers))
    for layers, image, others in (
        (few, True, True),
        (few, False, True),
        (whole, True, True),
        (whole, False, False),
    ):
        try:
            config = _small_sections(step.source_config, source.section) if others else step.source_config
            if image and source.grid is None:
                config = few_tokens(config, source.section, _SIDES[0]) or config  # of a video
            old, new = _sizes(step, config, len(layers), image)
            config = _small_token_ids(config)
            config._attn_implementation = None  # some kinds need an accelerator, and none computes something else
            config = target_config(config, source, old, layers, {})
            _narrow_windows(section(config, source.section))
            if image:
                _follow_image(config, step.source_config, source.section)
        except Exception:  # what a family's config refuses
            continue
        yield Miniature(config, new)
    same = source.grid == target.grid and not changes(source, target.sizes, GEOMETRY)
    if same and target.num_parameters <= _SMALL:
        yield Miniature(step.source_config, dict(step.sizes))


def _sizes(step: Pass, config: PreTrainedConfig, depth: int, image: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes of the small source and of its target. What repeats the width of another section stays as it is in `config`."""
    source = step.task.source
    part = section(step.source_config, source.section)
    real, grown = source.sizes, step.task.target.sizes
    old: dict[str, Any] = {**real}
    groups = max(t.groups for t in source.templates.values())
    heads = _heads(real, grown, source.head_dim_honoured, _scaled_axes(source, step.source_config), groups)
    new: dict[str, Any] = {}
    for name, (small, large) in heads.items():
        old[name], new[name] = small, large
    width, wide = heads["hidden_size"]
    if "mlp_ratio" in source.fields:
        old.pop("intermediate_size", None)
        old["mlp_ratio"] = getattr(part, source.fields["mlp_ratio"])
        new["mlp_ratio"] = step.sizes.get("mlp_ratio", old["mlp_ratio"])
    elif "intermediate_size" in real:
        before = old["intermediate_size"] = int(_FFN * width)
        new["intermediate_size"] = _alike(before, real["intermediate_size"], grown["intermediate_size"])
    old["num_hidden_layers"] = depth
    new["num_hidden_layers"] = depth + _more_layers(depth, real["num_hidden_layers"], grown["num_hidden_layers"])
    borrowed = _borrowed(step.source_config, source.section)
    for name, axis_width in _scaled_axes(source, step.source_config).items():
        if name in source.linked:
            old.pop(name, None)
            continue
        if name in borrowed:
            old[name] = new[name] = getattr(section(config, source.section), name)
            continue
        if (repeated := _repeated_width(step.source_config, config, source.section, axis_width)) is not None:
            old[name] = new[name] = repeated
            continue
        before = old[name] = _own_width(part, name, axis_width * width / real["hidden_size"])
        new[name] = _alike(before, *step.task.axis_sizes.get(name, (axis_width, axis_width)))
    for name in source.linked:  # left out, they follow the width
        old.pop(name, None)
        if name in step.sizes:
            new[name] = wide
    for name, rows in _tables(source, part).items():
        old[name] = new[name] = min(rows, TOKENS) if name == "vocab_size" or rows > _ROWS else rows
    old["num_labels"] = min(LABELS, real["num_labels"])
    if source.grid is not None and image:
        # a head may count in the patches of its backbone (Depth Anything)
        counted = source.section and getattr(step.source_config, "patch_size", None) is not None
        patch = max(as_pair(part.patch_size)) if counted else min(_PATCH, *as_pair(part.patch_size))
        sides = [patch * min(count, _SIDES[count % 2]) for count in source.grid]
        old["patch_size"], old["image_size"] = patch, sides[0] if sides[0] == sides[1] else tuple(sides)
    elif "image_size" in old:  # of a video, whose patches are counted in another way
        old["image_size"] = section(config, source.section).image_size
    return old, {**old, **new}


def _few_layers(source: Anatomy, part: PreTrainedConfig) -> LayerMap:
    """The layers of a small source: some, spread evenly, and those whose output something reads (a head on a backbone)."""
    depth = source.num_layers
    stages = {i % (depth + 1) for i in _listed(part, "out_indices")}  # stage 0 is what comes before the first layer
    read = {stage - 1 for stage in stages if stage}
    read |= {i % depth for name in LAYER_OUTPUTS for i in _listed(part, name)}
    spread = {layer.index for layer in LayerMap.spread(depth, min(LAYERS, depth))}
    return LayerMap.pick(sorted(spread | read))


def _listed(part: PreTrainedConfig, name: str) -> list[int]:
    value = getattr(part, name, None)
    return [i for i in value if isinstance(i, int)] if isinstance(value, (list, tuple)) else []


def _own_width(part: PreTrainedConfig, name: str, proportional: float) -> int:
    """A small width of the family's own; where heads of its own share it (a predictor's), so many heads of a size."""
    heads = getattr(part, name.removesuffix("hidden_size") + "num_attention_heads", None)
    small = max(1, round(proportional))
    if name.endswith("_hidden_size") and isinstance(heads, int) and small % heads:
        return heads * _HEAD
    return small


def _repeated_width(config: PreTrainedConfig, small: PreTrainedConfig, own: str, axis_width: int) -> int | None:
    """What a width is in a small config that is the width of another section (SAM's neck), or half of it (sines); else None."""
    for name, part in nested_configs(config).items() if own else ():
        native = native_name(part, "hidden_size")
        times = getattr(part, native) / axis_width if name != own and native is not None else 0
        if times in (1, 2):
            return int(getattr(section(small, name), str(native)) // times)
    return None


def _repeat_image(config: PreTrainedConfig, own: str) -> list[str]:
    """Other sections with the image and the patches of the one that is resized (SAM's prompts)."""

    def geometry(part: PreTrainedConfig) -> tuple[Any, Any]:
        return getattr(part, "image_size", None), getattr(part, "patch_size", None)

    wanted = geometry(section(config, own))
    return [
        n
        for n, p in nested_configs(config).items()
        if own and n != own and None not in wanted and geometry(p) == wanted
    ]


def _follow_image(small: PreTrainedConfig, config: PreTrainedConfig, own: str) -> None:
    """Brings sections along, in place, that repeat the image of the one that is resized."""
    part = section(small, own)
    for name in _repeat_image(config, own):
        other = section(small, name)
        other.image_size, other.patch_size = part.image_size, part.patch_size
        if hasattr(other, "image_embedding_size"):
            other.image_embedding_size = as_pair(part.image_size)[0] // as_pair(part.patch_size)[0]


def _scaled_axes(source: Anatomy, config: PreTrainedConfig) -> dict[str, int]:
    """A family's own widths, which keep their proportion to the width.

    What nothing writes, and the forward pass makes by counting (LayoutLMv3's bins of distances), is as many as it is.
    """
    part = section(config, source.section)
    made = {d.axis for t in source.templates.values() for d in t.dims if d.side not in ("in", "-")}
    found = {name: getattr(part, source.fields.get(name, name), None) for name in own_axes(source) & made}
    return {name: value for name, value in found.items() if isinstance(value, int) and not isinstance(value, bool)}


def _tables(source: Anatomy, part: PreTrainedConfig) -> dict[str, int]:
    """Rows of the family's tables, by the size that counts them."""
    axes = {d.axis for t in source.templates.values() for d in t.dims if d.side == "-"} - {*AXES, *GEOMETRY}
    found = {
        name: getattr(part, source.fields.get(name, name), None) for name in ("vocab_size", "type_vocab_size", *axes)
    }
    return {name: value for name, value in found.items() if isinstance(value, int) and not isinstance(value, bool)}


def _kind(old: int, new: int) -> str:
    """How one size becomes another."""
    return "same" if new == old else "multiple" if new % old == 0 else "other" if new > old else "smaller"


def _heads(
    real: Mapping[str, int], grown: Mapping[str, int], free: bool, own: Mapping[str, int], groups: int
) -> dict[str, tuple[int, int]]:
    """Width, heads, head size and key heads of a small source and its target, that change in the same kinds of ways.

    Args:
        real: sizes of the source.
        grown: those of its target.
        free: whether heads x head size need not be the width.
        own: the family's own widths; where one of the small widths keeps their proportions, it comes first.
        groups: of convolutions over the width; both widths are multiples.
    """
    names = ("hidden_size", "num_attention_heads", "head_dim")
    kinds = [_kind(real[n], grown[n]) for n in names if n in real]
    if "num_attention_heads" not in real:
        return {"hidden_size": (24, _alike(24, real["hidden_size"], grown["hidden_size"]))}
    shared = real.get("num_key_value_heads") or 0
    group = real["num_attention_heads"] // shared if shared else 1
    counts = [n for n in (3, 2, 4) if n % min(group, 2) == 0] if real["num_attention_heads"] > 1 else [1]
    second: dict[str, tuple[int, int]] = {}
    for count, size in itertools.product(counts, (8, 4, 16)):
        for more, longer in itertools.product(
            range(count, 3 * count + 2), (size, 2 * size, size + 4, size + 2, 3 * size)
        ):
            flat = real["num_attention_heads"] * real["head_dim"] == real["hidden_size"]
            for width, wide in _widths(count * size, more * longer, free, flat, real, grown):
                pairs = ((width, wide), (count, more), (size, longer))
                if [_kind(*pair) for pair in pairs] != kinds or width % groups or wide % groups:
                    continue
                fits = all(value * width % real["hidden_size"] == 0 for value in own.values())
                small = dict(zip(names, pairs, strict=True))
                if shared:
                    each = min(group, 2)
                    small["num_key_value_heads"] = (count // each, more // each)
                    if _kind(*small["num_key_value_heads"]) != _kind(shared, grown["num_key_value_heads"]):
                        continue
                if fits:
                    return small
                second = second or small
    if not second:
        raise ValueError("no small heads change in the same way")
    return second


def _widths(
    narrow: int, wide: int, free: bool, flat: bool, real: Mapping[str, int], grown: Mapping[str, int]
) -> Iterator[tuple[int, int]]:
    """Widths of a small source and its target, given heads x head size of both."""
    yield narrow, wide
    if free:
        start = narrow if flat else 24
        yield start, _alike(start, real["hidden_size"], grown["hidden_size"])


def _alike(small: int, old: int, new: int) -> int:
    """The size that `small` becomes, as `old` becomes `new`."""
    if new == old:
        return small
    return min(new // old, 3) * small if new % old == 0 else min(new // old, 2) * small + max(1, small // 2)


def _more_layers(depth: int, old: int, new: int) -> int:
    """How many layers more a small model has."""
    if new == old:
        return 0
    return depth + (new > 2 * old) if new >= 2 * old else max(1, min(depth - 1, depth * (new - old) // old))


def _small_token_ids(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config with ids of special tokens below `TOKENS`, different ones still different."""
    small = copy.deepcopy(config)
    parts = [small, *(v for v in vars(small).values() if isinstance(v, PreTrainedConfig))]
    named = [(part, n, v) for part in parts for n, v in vars(part).items() if n.endswith("token_id")]
    ids = sorted({i for _, _, v in named for i in (v if isinstance(v, list) else [v]) if isinstance(i, int)})
    kept = [i for i in ids if i < TOKENS]
    free = [i for i in range(TOKENS - 1, -1, -1) if i not in kept]
    moved = {i: free.pop(0) for i in ids if i >= TOKENS and free}
    for part, name, value in named:
        if isinstance(value, list):
            setattr(part, name, [moved.get(i, i) for i in value])
        elif value in moved:
            setattr(part, name, moved[value])
    return small


def _narrow_windows(part: PreTrainedConfig) -> None:
    """Narrows Longformer's attention windows in place: texts are padded to a whole one."""
    windows = getattr(part, "attention_window", None)
    if isinstance(windows, int):
        part.attention_window = min(windows, _WINDOW)
    elif isinstance(windows, list):
        part.attention_window = [min(w, _WINDOW) for w in windows]


def _borrowed(config: PreTrainedConfig, own: str) -> dict[str, str]:
    """Fields of the section that is resized that repeat the width of another one -> that section (cross-attention)."""
    if not own:
        return {}
    others = [name for name in nested_configs(config) if name != own]
    return {
        path.rpartition(".")[2]: other
        for other in others
        for path in width_repeated(config, other)
        if path.rpartition(".")[0] == own
    }


def _small_sections(config: PreTrainedConfig, own: str) -> PreTrainedConfig:
    """The config with small sizes in every section but the one that is resized."""
    small = copy.deepcopy(config)
    for name, part in nested_configs(small).items():
        if name != own:
            for size, value in _OTHER_SECTION.items():
                native = native_name(part, size)
                if native is not None and isinstance(getattr(part, native), int):
                    setattr(part, native, value)
    for name in _borrowed(config, own):
        setattr(section(small, own), name, _OTHER_SECTION["hidden_size"])
    return small
