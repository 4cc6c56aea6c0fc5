"""From the probes' effects to a named axis for every dimension."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from torch import nn

from hf_learngene.anatomy.config_fields import as_pair
from hf_learngene.anatomy.probe import Effect, Prober
from hf_learngene.anatomy.trace import is_norm
from hf_learngene.anatomy.types import (
    DISTANCES,
    FFN,
    FIXED,
    GROUP,
    HEAD_COUNT,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KERNEL,
    KV_HEADS,
    LABELS,
    PATCHES,
    POSITIONS,
    RELATIVE,
    RELATIVE_LINE,
    SIDE,
    VOCAB,
    Dim,
)


UNKNOWN = "unknown"
NAMED_AXES = {
    DISTANCES, FFN, FIXED, GROUP, HEAD_COUNT, HEAD_DIM, HEADS, HIDDEN, KERNEL, KV_HEADS, LABELS, PATCHES, POSITIONS, RELATIVE,
    RELATIVE_LINE, SIDE, VOCAB, UNKNOWN,
}  # fmt: skip
_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layer_of(name: str, containers: Iterable[str]) -> tuple[int | None, str]:
    """Layer index and template of a parameter's name."""
    for container in containers:
        if name.startswith(f"{container}."):
            index, dot, rest = name[len(container) + 1 :].partition(".")
            if dot and index.isdecimal():
                return int(index), f"{container}.{{}}.{rest}"
    return None, name


def axes_of(
    name: str, parameter: nn.Parameter, prober: Prober, model: nn.Module, product: str, layers: Mapping[int, int]
) -> tuple[Dim, ...]:
    """The dimensions of one parameter.

    `product` is the function it enters as a weight, and `layers` what `layer_dims` found of it.
    """
    module = model.get_submodule(owner_of(name))
    sides = sides_of(module, parameter, product)
    effects = prober.effects[name]
    dims = []
    for i, (size, effect) in enumerate(zip(parameter.shape, effects, strict=True)):
        blocks = layers.get(i, 1)
        effect = {n: Effect(e.delta // blocks, e.step) for n, e in effect.items()} if blocks > 1 else effect
        size = int(size) // blocks
        axis, parts, prefix = _axis(size, effect, prober, spatial=isinstance(module, CONVOLUTIONS) and i >= 2)
        if i == 0 and sides[0] != "-" and sides[-1] != "in" and _is_line(parameter, size, effect):
            axis, parts, prefix = _Counted(DISTANCES)
        if i == 1 and isinstance(module, CONVOLUTIONS) and _reads_a_group(size, effect, module.groups, prober):
            axis = GROUP
        if axis == POSITIONS and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            prefix = module.padding_idx + 1
        # a product over the heads (DeBERTa's talking heads) sums over them; a table of them does not
        feature = is_feature(axis) or (axis == HEAD_COUNT and sides[i] == "in")
        side = sides[i] if feature else "-"
        dims.append(Dim(axis, size * blocks, side, parts * blocks, False, prefix, layers.get(i, 0)))
    return tuple(dims)


def owner_of(name: str) -> str:
    """Module that a parameter is a weight of; under a parametrisation (weight normalisation) not the one that holds it.

    Example:
        >>> owner_of("encoder.conv.parametrizations.weight.original0"), owner_of("encoder.dense.weight")
        ('encoder.conv', 'encoder.dense')
    """
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def _is_line(parameter: nn.Parameter, size: int, effect: Mapping[str, Effect]) -> bool:
    """Whether the rows of a table count the distances along a side of n, both ways: 2n - 1, and 4n - 1 along twice the side."""
    sides = len(effect) == 1 and not effect.keys() & {*_WIDTHS, "head_dim", "max_position_embeddings", "vocab_size"}
    return sides and parameter.dim() == 2 and all(e.delta == size + 1 for e in effect.values())


def _reads_a_group(size: int, effect: dict[str, Effect], groups: int, prober: Prober) -> bool:
    """Whether a dimension counts the channels of one group, of a convolution that has as many groups at any width."""
    width = effect.get("hidden_size")
    hidden = getattr(prober.part, prober.fields["hidden_size"])
    return width is not None and groups > 1 and size * groups == hidden and width.delta * groups == width.step


def is_feature(axis: str) -> bool:
    """Whether an axis counts entries of a vector, not tokens, labels or taps."""
    return axis not in (
        VOCAB,
        POSITIONS,
        PATCHES,
        RELATIVE,
        KERNEL,
        LABELS,
        FIXED,
        HEAD_COUNT,
        RELATIVE_LINE,
        DISTANCES,
        SIDE,
    )


def sides_of(module: nn.Module, parameter: nn.Parameter, product: str) -> list[str]:
    """The side of each dimension, as in `Dim`, were all of them features."""
    rank = parameter.dim()
    if is_norm(module):
        return ["each"] * rank
    if isinstance(module, nn.Embedding) or (product == "embedding" and rank == 2):
        return ["-", "out"]
    # a class of the family's own may call the function itself (I-BERT's QuantLinear)
    matrix = product in ("linear", "conv") or isinstance(module, (nn.Linear, nn.MultiheadAttention, *CONVOLUTIONS))
    if matrix and rank >= 2:
        return ["out", "in", *["-"] * (rank - 2)]
    # a bias, a token, a table: its last dimension is the vector it adds
    return ["out"] * rank


class _Counted(NamedTuple):
    """What one dimension counts, as in `Dim`."""

    axis: str
    parts: int = 1
    prefix: int = 0


def _axis(size: int, effect: dict[str, Effect], prober: Prober, spatial: bool) -> _Counted:
    """What one dimension counts, from the fields that drive it."""
    part, fields = prober.part, prober.fields
    hidden = getattr(part, fields["hidden_size"])
    heads = getattr(part, fields["num_attention_heads"], 0) if "num_attention_heads" in fields else 0
    if not effect:
        return _Counted(FIXED)
    if "num_labels" in effect:
        return _Counted(LABELS if set(effect) == {"num_labels"} else UNKNOWN)
    if spatial and set(effect) == {"patch_size"}:
        return _Counted(KERNEL)
    if spatial and not set(effect) & prober.fields.keys():
        return _Counted(FIXED)  # taps that a field of the family's own counts: fewer or more would be another filter
    if set(effect) == {"num_patches"}:
        return _Counted(PATCHES)
    # rows that frames count too are no grid
    if "image_size" in effect and "patch_size" in prober.fields and set(effect) <= {"image_size", "patch_size"}:
        return _grid_axis(size, effect, prober)
    if set(effect) <= {"image_size", "patch_size"}:
        return _Counted(UNKNOWN)  # rows of no grid that is known, pixels in no kernel
    for field, axis in (("vocab_size", VOCAB), ("max_position_embeddings", POSITIONS)):
        if field in effect and "hidden_size" not in effect:
            if effect[field].delta != effect[field].step:
                return _Counted(RELATIVE_LINE)  # a table of distances both ways (DeBERTa)
            table = getattr(part, fields[field])
            return _Counted(axis, 1, max(0, size - table))
    if "head_dim" in effect:
        head_dim = getattr(part, fields.get("head_dim", "head_dim"), None) or hidden // heads
        if "num_attention_heads" not in effect and "num_key_value_heads" not in effect:
            return _Counted(HEAD_DIM) if size == head_dim else _together(effect)
        count = effect.get("num_attention_heads")
        if size == head_dim and count is not None and count.delta * count.step < 0:
            return _Counted(HEAD_DIM)  # more heads are smaller ones, where nothing pins their size
        kv = getattr(part, "num_key_value_heads", heads)
        if size % (heads * head_dim) == 0 and "num_key_value_heads" not in effect:
            return _Counted(HEADS, size // (heads * head_dim))
        return _Counted(KV_HEADS) if size == kv * head_dim else _together(effect)
    if "intermediate_size" in effect or "mlp_ratio" in effect:
        width = effect.get("intermediate_size")
        if width is not None:
            parts = width.delta / width.step
            return _Counted(FFN, int(parts)) if parts.is_integer() and parts >= 1 else _together(effect)
        return _Counted(FFN)
    if "hidden_size" in effect:
        parts = effect["hidden_size"].delta / effect["hidden_size"].step
        if "num_attention_heads" in effect:
            return _Counted(HEAD_DIM) if heads and size == hidden // heads else _together(effect)
        if parts.is_integer() and size == parts * hidden:
            return _Counted(HIDDEN, int(parts))
        return _together(effect)
    if "num_attention_heads" in effect:
        return _Counted(HEAD_COUNT) if size == heads else _together(effect)
    if len(effect) == 1:
        ((field, change),) = effect.items()
        parts = change.delta / change.step  # a GLU in a family's own width
        whole = parts.is_integer() and parts > 1 and size == parts * getattr(part, field, 0)
        return _Counted(field, int(parts) if whole else 1)
    return _Counted("+".join(sorted(effect)))  # `encoder_stride+num_channels`: the pixels a decoder gives back


def _together(effect: Mapping[str, Effect]) -> _Counted:
    """An axis of what several fields count together: a share of the width, a width for a part of the heads, a sum.

    Its name holds the fields and what one more of the first adds, so that no two such axes of other sizes are taken for one.
    """
    first = next(n for n in (*_WIDTHS, *sorted(effect)) if n in effect)
    others = sorted(set(effect) - {first})
    share = Fraction(effect[first].delta) / Fraction(effect[first].step).limit_denominator(1000)
    return _Counted("+".join((first, *others, f"×{share}")))


def _grid_axis(size: int, effect: dict[str, Effect], prober: Prober) -> _Counted:
    image, patch = (as_pair(getattr(prober.part, prober.fields[f])) for f in ("image_size", "patch_size"))
    rows, columns = image[0] // patch[0], image[1] // patch[1]
    bigger = size + effect["image_size"].delta
    twice = (2 * image[0] // patch[0], 2 * image[1] // patch[1])
    prefix = size - rows * columns
    if prefix >= 0 and bigger == twice[0] * twice[1] + prefix:
        return _Counted(PATCHES, 1, prefix)
    prefix = size - (2 * rows - 1) * (2 * columns - 1)
    if prefix >= 0 and bigger == (2 * twice[0] - 1) * (2 * twice[1] - 1) + prefix:
        return _Counted(RELATIVE, 1, prefix)
    if size in (rows, columns) and bigger == 2 * size:
        return _Counted(SIDE)
    return _Counted(UNKNOWN)
