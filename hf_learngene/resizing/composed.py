"""Widths that several fields count together, or that stand beside each other in another: which other sizes they may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import HIDDEN
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps.task import own_axes
from hf_learngene.resizing.sizes import describe


def check_counted_together(source: Anatomy, target: Anatomy) -> None:
    """Refuses another size of what a width counts together with other fields, where what stands where in it is not known.

    It is known of a width that one matrix writes and another reads (an adapter, the ffn of LiLT's layout), as of any ffn. It is
    not of a part of the heads, of a stream with norms of its own, or of a sum.

    Raises:
        InvalidSizeError: names the tensor, its sizes and the fields.
    """
    for template, old in source.templates.items():
        for a, b in zip(
            old.dims, target.templates[template].dims if template in target.templates else (), strict=False
        ):
            # heads of an attention with a width of its own (MobileBERT) stand in it in no known order
            apart = (
                (a.axis,)
                if old.role in ("q", "k", "v", "qkv") and a.side == "out" and a.axis in own_axes(source)
                else ()
            )
            fields = a.counted_together or apart
            if fields and a.side != "-" and a.axis not in source.private_widths and a.size != b.size:
                raise InvalidSizeError(
                    f"{describe(target.sizes, source.sizes)} would make `{template}` of `{source.model_type}` "
                    f"{a.size} → {b.size}, which {_listed(fields)} count in a way of their own: what stands where is not known. "
                    f"Keep {fields[0]}={source.sizes.get(fields[0])}; the depth can change, and a larger size may be exact "
                    "(method='lemon')."
                )


def check_parts_of_the_width(source: Anatomy, sizes: Mapping[str, Any]) -> None:
    """Refuses another width where tables of a width of their own stand beside each other in it (LayoutLMv3's corners and sides).

    Raises:
        InvalidSizeError: names the tables and their fields.
    """
    normed = {n.axis for n in source.norms} | {HIDDEN}
    parts = {
        t.template: t.dims[-1]
        for t in source.templates.values()
        if t.kind == "embedding" and t.writes_stream and t.dims[-1].axis in own_axes(source) - normed
        and not t.dims[-1].counted_together
    }  # fmt: skip
    old, new = source.sizes["hidden_size"], sizes.get("hidden_size", source.sizes["hidden_size"])
    if parts and new != old:
        shown = ", ".join(f"`{name}` ({dim.axis}={dim.size})" for name, dim in parts.items())
        raise InvalidSizeError(
            f"hidden_size {old} → {new}: in `{source.model_type}` tables stand beside each other in the width and add up to it, "
            f"so entries of the width are entries of one of them: {shown}. Keep hidden_size={old}; depth and ffn can change."
        )


def _listed(fields: Sequence[str]) -> str:
    return " and ".join(fields) if len(fields) > 1 else f"{fields[0]} and the class itself"
