"""Which sizes a lossless growth can reach, and the errors that name the nearest ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import AXES, FFN, HEAD_DIM, HEADS, HIDDEN, KV_HEADS
from hf_learngene.errors import DirectionError, InvalidSizeError, LossyGrowthError
from hf_learngene.maps.task import GEOMETRY, WIDTHS, changes, flat_heads, shown


def eta_of(old: int, new: int) -> float:
    """Root of the share of a widened residual stream that holds copies; 1 at whole multiples.

    Example:
        >>> eta_of(384, 768), round(eta_of(384, 512), 4)
        (1.0, 0.866)
    """
    return 1.0 if new % old == 0 else math.sqrt((new // old) * old / new)


def nearest_multiples(old: int, new: int) -> str:
    """The whole multiples of `old` below and above `new`, in words."""
    low = new // old * old
    return f"{low} and {low + old}"


def check_growth(source: Anatomy, sizes: Mapping[str, int], allow_lossy: bool, method: str) -> None:
    """Refuses what the method of this name cannot grow without loss.

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
    names = (*WIDTHS, "mlp_ratio", "num_hidden_layers", *sorted(own))
    smaller = {n: (old, new) for n, (old, new) in changes(source, sizes, names).items() if new < old}
    if smaller:
        raise DirectionError(
            f"method={method!r} copies the source's function, so it only grows ({shown(smaller)}). method='calibrated' shrinks "
            "on unlabelled examples, 'weight_selection' without; method='auto' shrinks one axis and grows the other."
        )
    tables = _own_tables(source, sizes)
    if tables and not allow_lossy:
        raise LossyGrowthError(
            f"{shown(tables)}: these count rows of a table that only `{source.model_type}` has, and what other rows stand for is "
            f"not known (buckets of distances, tokens that all others attend to). Leave {', '.join(tables)} out, or change that "
            "in a call of its own; allow_lossy=True grows all the same."
        )
    old, new = source.sizes["hidden_size"], sizes["hidden_size"]
    parted = next((n for n in source.linked if sizes.get(n, new) != new), None)
    if parted is not None:
        raise LossyGrowthError(
            f"{parted}={sizes[parted]} and hidden_size={new}: they are one width in this `{source.model_type}` ({old}), and a "
            f"projection between them would start anew. Leave {parted} out, and it follows."
        )
    if sizes["num_hidden_layers"] > source.num_layers and source.shared_layers:
        raise DirectionError(
            f"The layers of `{source.model_type}` share one set of weights, so a deeper model computes another function: "
            "no new layer can be the identity while the old ones are not. Grow its width or ffn, or use method='front' or "
            "'random' for a deeper start that is not lossless."
        )
    if sizes["num_hidden_layers"] > source.num_layers and source.numbers_of_depth and not allow_lossy:
        raise LossyGrowthError(
            f"num_hidden_layers {source.num_layers} → {sizes['num_hidden_layers']}: `{source.model_type}` computes with a number "
            f"that follows from its depth (`{source.numbers_of_depth[0]}`), so a deeper model is another function. Keep the "
            "depth; allow_lossy=True grows all the same."
        )
    if sizes["num_hidden_layers"] > source.num_layers and source.num_layers <= source.lead:
        raise DirectionError(
            f"num_hidden_layers {source.num_layers} → {sizes['num_hidden_layers']}: its only block holds the transition from the "
            "stage before, and no other block could be like it. Start from a deeper checkpoint."
        )
    _check_heads(source, sizes)
    _check_unseen(source, sizes, allow_lossy)
    readers = source.layers_read_from_outside
    if sizes["num_hidden_layers"] > source.num_layers and len(readers) == source.num_layers:
        raise DirectionError(
            f"Something besides the next layer reads the output of every layer of this `{source.model_type}` "
            f"({source.num_layers} layers), so a new one behind it would change what is read. Start from a deeper checkpoint."
        )
    blockers = source.norms_that_need_multiples()
    made = next((n.name for n in blockers if "constant" in n.reads), None)
    made = made or next((t.template for t in source.templates.values() if t.reads_made), None)
    if new != old and made is not None and not allow_lossy:
        raise LossyGrowthError(
            f"hidden_size {old} → {new} cannot keep the function of `{source.model_type}` as {source.model_class}: "
            f"`{made}` reads a vector that the forward pass makes for its own width (sinusoids), and a wider one is "
            f"another. Keep hidden_size={old}; allow_lossy=True grows to {new} all the same."
        )
    if new % old and blockers and not allow_lossy:
        norm = blockers[0]
        why = "a sum that holds another norm's output" if "norm" in norm.reads else "an activation's output"
        raise LossyGrowthError(
            f"hidden_size {old} → {new} cannot keep the function of `{source.model_type}` as {source.model_class}: "
            f"`{norm.name}` normalises {why}, and only whole multiples of {old} are exact there. The nearest are "
            f"{nearest_multiples(old, new)}. method='lemon' with allow_lossy=True grows to {new} with a small loss."
        )
    if new % old and source.stage is not None and not allow_lossy:
        raise LossyGrowthError(
            f"hidden_size {old} → {new}: between the stages of a hierarchy only whole multiples of {old} are exact. The nearest "
            f"are {nearest_multiples(old, new)}. method='lemon' with allow_lossy=True grows to {new} with a loss."
        )
    grouped = next((t.template for t in source.templates.values() if t.groups > 1), None)
    if new % old and grouped and not allow_lossy:
        raise LossyGrowthError(
            f"hidden_size {old} → {new} cannot keep the function of `{source.model_type}` as {source.model_class}: "
            f"`{grouped}` is a convolution whose groups part the width, and only whole multiples of {old} are exact there. The "
            f"nearest are {nearest_multiples(old, new)}. method='lemon' with allow_lossy=True grows to {new} with a small loss."
        )
    for axis in sorted(own):
        before, after = source.sizes.get(axis, 1), sizes.get(axis, 1)
        if after % before and any(n.axis == axis for n in source.norms):
            raise LossyGrowthError(
                f"{axis} {before} → {after}: only whole multiples are exact, because a norm runs over it; the nearest are "
                f"{nearest_multiples(before, after)}."
            )


def _own_tables(source: Anatomy, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Rows of a family's own tables that change (WavLM's `num_buckets`): (source's, target's) by the size that counts them."""
    rows = {d.axis: d.size for t in source.templates.values() for d in t.dims if d.side == "-"}
    own = {n: source.sizes.get(n, rows[n]) for n in sorted(rows.keys() - {*AXES, *GEOMETRY})}
    return {n: (old, sizes[n]) for n, old in own.items() if sizes.get(n, old) != old}


def _check_unseen(source: Anatomy, sizes: Mapping[str, int], allow_lossy: bool) -> None:
    """What a plain forward pass never reaches, and no name explains, is only safe where all widths are plain copies."""
    if not source.unseen:
        return
    names = ", ".join(f"`{t.template}`" for t in source.unseen[:2]) + (", ..." if len(source.unseen) > 2 else "")
    why = f"a plain forward pass of {source.model_class} does not reach {names}, so what reads and writes there is not known"
    old, new = source.sizes["hidden_size"], sizes["hidden_size"]
    if new % old and not allow_lossy:
        raise LossyGrowthError(
            f"hidden_size {old} → {new}: {why}, and only whole multiples are sure to be exact. The nearest are "
            f"{nearest_multiples(old, new)}; allow_lossy=True grows to {new} all the same."
        )
    square = any(len(t.dims) > 1 and all(d.axis == HIDDEN for d in t.dims) for t in source.unseen)  # may make heads
    resized = source.sizes.get("head_dim") != sizes.get("head_dim") and not source.head_dim_honoured
    if resized and square and not allow_lossy:
        raise InvalidSizeError(
            f"head_dim {source.sizes.get('head_dim')} → {sizes.get('head_dim')}: {why}. Keep the head size (the number of "
            "heads then follows the width), or say what they are with register_anatomy."
        )
    if sizes["num_hidden_layers"] > source.num_layers and not allow_lossy:
        inside = [t.template for t in source.unseen if t.layer is not None and t.dims[0].axis == HIDDEN]
        if inside:
            raise LossyGrowthError(
                f"num_hidden_layers {source.num_layers} → {sizes['num_hidden_layers']}: {why}, and a new layer must write "
                f"nothing (`{inside[0]}` may). allow_lossy=True grows all the same."
            )


def _check_heads(source: Anatomy, sizes: Mapping[str, int]) -> None:
    if "num_attention_heads" not in source.sizes:
        return
    old_size, new_size = source.sizes["head_dim"], sizes["head_dim"]
    if new_size > old_size and source.rotary:
        raise InvalidSizeError(
            f"head_dim {old_size} → {new_size}: `{source.model_type}` rotates its head dimensions by position, and a larger "
            f"head rotates at other frequencies. Keep head_dim at {old_size} and add heads instead "
            f"(num_attention_heads={sizes['num_attention_heads'] * new_size // old_size})."
        )
    if new_size > old_size and (source.normalised_heads or any(n.axis in (HEADS, HEAD_DIM) for n in source.norms)):
        raise InvalidSizeError(
            f"head_dim {old_size} → {new_size}: `{source.model_type}` normalises each head, learns a query as it stands, or "
            f"reads the width head by head, so a larger one is not exact. Keep head_dim at {old_size}."
        )
    flat, new_flat = flat_heads(source.sizes), flat_heads(sizes)
    if new_flat % flat and any(n.axis == HEADS for n in source.norms):
        raise LossyGrowthError(
            f"heads × head size {flat} → {new_flat}: `{source.model_type}` normalises all queries and all keys, and only whole "
            f"multiples are exact there; the nearest are {nearest_multiples(flat, new_flat)}."
        )
    kv_old, kv_new = source.sizes.get("num_key_value_heads"), sizes.get("num_key_value_heads")
    if kv_old and kv_new and kv_old != source.sizes["num_attention_heads"]:
        heads_old, heads_new = source.sizes["num_attention_heads"], sizes["num_attention_heads"]
        if heads_new * kv_old != heads_old * kv_new or heads_new % heads_old:
            raise InvalidSizeError(
                f"Grouped heads grow together by one whole factor: {heads_old} heads over {kv_old} cannot become "
                f"{heads_new} over {kv_new}."
            )
