"""Which sizes a lossless growth can reach, and the errors that name the nearest ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import FFN, HEAD_DIM, HEADS, HIDDEN, KV_HEADS
from hf_learngene.errors import DirectionError, InvalidSizeError, LossyGrowthError
from hf_learngene.methods.base import GEOMETRY, WIDTHS


def eta_of(old: int, new: int) -> float:
    """Root of the share of a widened stream that holds copies; 1 at whole multiples.

    Example:
        >>> eta_of(384, 768), round(eta_of(384, 512), 4)
        (1.0, 0.866)
    """
    return 1.0 if new % old == 0 else math.sqrt((new // old) * old / new)


def nearest_multiples(old: int, new: int) -> str:
    """The whole multiples of `old` below and above `new`, in words."""
    low = new // old * old
    return f"{low} and {low + old}"


def check_growth(source: Anatomy, sizes: Mapping[str, int], allow_lossy: bool) -> None:
    """Refuses what cannot be grown without loss.

    Raises:
        DirectionError: a size shrinks.
        InvalidSizeError: heads or head size that no exact construction reaches.
        LossyGrowthError: a width that is no multiple where only multiples are exact, without `allow_lossy`.
    """
    own = {d.axis for t in source.templates.values() for d in t.dims if d.side != "-"} - {
        HIDDEN,
        HEADS,
        KV_HEADS,
        FFN,
        *GEOMETRY,
    }
    names = [n for n in (*WIDTHS, "num_hidden_layers", *sorted(own)) if n in source.sizes and n in sizes]
    smaller = [f"{n} {source.sizes[n]} → {sizes[n]}" for n in names if sizes[n] < source.sizes[n]]
    if smaller:
        raise DirectionError(
            f"lemon keeps the function, so it only grows ({', '.join(smaller)}). method='weight_selection' or "
            "'front' shrinks; method='auto' shrinks one axis and grows the other."
        )
    old, new = source.sizes["hidden_size"], sizes["hidden_size"]
    if sizes["num_hidden_layers"] > source.num_layers and source.shared_layers:
        raise DirectionError(
            f"The layers of `{source.model_type}` share one set of weights, so a deeper model computes another function: "
            "no new layer can be the identity while the old ones are not. Grow its width or ffn, or use method='front' or "
            "'random' for a deeper start that is not lossless."
        )
    _check_heads(source, sizes)
    blockers = source.norms_that_need_multiples()
    if new % old and blockers and not allow_lossy:
        norm = blockers[0]
        why = "a sum that holds another norm's output" if "norm" in norm.reads else "an activation's output"
        raise LossyGrowthError(
            f"hidden_size {old} → {new} cannot keep the function of `{source.model_type}` as {source.model_class}: "
            f"`{norm.name}` normalises {why}, and only whole multiples of {old} are exact there. The nearest are "
            f"{nearest_multiples(old, new)}. method='lemon' with allow_lossy=True grows to {new} with a small loss."
        )
    for axis in sorted(own):
        before, after = source.sizes.get(axis, 1), sizes.get(axis, 1)
        if after % before and any(n.axis == axis for n in source.norms):
            raise LossyGrowthError(
                f"{axis} {before} → {after}: only whole multiples are exact, because a norm runs over it; the nearest are "
                f"{nearest_multiples(before, after)}."
            )


def _check_heads(source: Anatomy, sizes: Mapping[str, int]) -> None:
    if "num_attention_heads" not in source.sizes:
        return
    old_size, new_size = source.sizes["head_dim"], sizes["head_dim"]
    if new_size > old_size and source.rotary:
        raise InvalidSizeError(
            f"head_dim {old_size} → {new_size}: `{source.model_type}` rotates its head dimensions by position, and a larger "
            f"head turns at other frequencies. Keep head_dim at {old_size} and add heads instead "
            f"(num_attention_heads={sizes['num_attention_heads'] * new_size // old_size})."
        )
    if new_size > old_size and (source.normalised_heads or any(n.axis == HEAD_DIM for n in source.norms)):
        raise InvalidSizeError(
            f"head_dim {old_size} → {new_size}: `{source.model_type}` normalises each head, so a larger one is not exact. "
            f"Keep head_dim at {old_size}."
        )
    kv_old, kv_new = source.sizes.get("num_key_value_heads"), sizes.get("num_key_value_heads")
    if kv_old and kv_new and kv_old != source.sizes["num_attention_heads"]:
        heads_old, heads_new = source.sizes["num_attention_heads"], sizes["num_attention_heads"]
        if heads_new * kv_old != heads_old * kv_new or heads_new % heads_old:
            raise InvalidSizeError(
                f"Grouped heads grow together by one whole factor: {heads_old} heads over {kv_old} cannot become "
                f"{heads_new} over {kv_new}."
            )
