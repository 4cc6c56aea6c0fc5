"""What a target has of each axis, and which modules of the source hold it."""

from __future__ import annotations

from dataclasses import dataclass

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import DISTANCES, FFN, HEADS, HIDDEN
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps.task import ResizeTask


@dataclass(frozen=True)
class AxisTargets:
    """What a target has of each axis, where it is less than the source's; None where it is the same."""

    width: int | None
    heads: int | None
    head_size: int | None
    units: int | None

    @classmethod
    def of(cls, task: ResizeTask) -> AxisTargets:
        """What a task asks for.

        Raises:
            InvalidSizeError: another head size of a family whose heads are rotated, normalised or share keys.
        """
        anatomy, ((heads, size), (new_heads, new_size)) = task.source, task.heads
        check_head_size(anatomy, task.groups[0][1], size, new_size)
        changed = {axis: new for axis, (old, new) in task.axis_sizes.items() if new != old}
        written = HEADS in task.axis_sizes  # attention of a width of its own is cut into other heads (MobileBERT)
        return cls(
            changed.get(HIDDEN),
            new_heads if written and new_heads != heads else None,
            new_size if new_size != size else None,
            changed.get(FFN),
        )


def heads_can_shrink(anatomy: Anatomy) -> bool:
    """Whether heads can be projected to a smaller size: none that are rotated, normalised, share keys or one table (SAM)."""
    heads = anatomy.sizes.get("num_attention_heads", 0)
    alone = anatomy.sizes.get("num_key_value_heads", heads) == heads
    one_basis = anatomy.rotary or anatomy.normalised_heads or _meet_a_table(anatomy)
    return bool(heads) and alone and not one_basis


def _meet_a_table(anatomy: Anatomy) -> bool:
    """Whether queries meet a table whose rows are as long as a head: one for all heads, so none can turn alone."""
    return any(d.axis == DISTANCES for t in anatomy.templates.values() for d in t.dims)


def check_head_size(anatomy: Anatomy, group: int, old: int, new: int) -> None:
    """Refuses another head size where heads cannot be projected, or where it is not known which matrices write them.

    Args:
        anatomy: the source's.
        group: how many of its query heads share a key and a value.
        old: the head size of the source.
        new: the head size of the target.

    Raises:
        InvalidSizeError: heads that are rotated, normalised or share keys, or whose queries and keys are not found.
    """
    if new == old:
        return
    if not heads_can_shrink(anatomy):
        how = "rotated, normalised or compared to a table as they are" if group == 1 else "many to a key and a value"
        raise InvalidSizeError(
            f"The heads of `{anatomy.model_type}` are {how}: their size stays {old}. Shrink num_attention_heads instead."
        )
    layers = {anatomy.layer_of(t) for t in anatomy.tensors.values() if t.role == "o"}
    for layer in layers - {None}:
        roles = sorted(t.role for t in query_writers(anatomy, layer))
        if roles not in (["k", "q"], ["qkv"]):
            raise InvalidSizeError(
                f"The queries and keys of `{anatomy.model_type}` are made by {', '.join(roles) or 'no matrix that is known'}: "
                f"which of them heads are chosen by is not known, so their size stays {old}. Shrink num_attention_heads instead."
            )


def query_writers(anatomy: Anatomy, layer: int | None) -> list[TensorInfo]:
    """The matrices of a layer that make its queries and keys from the residual stream, not from positions (DeBERTa).

    They read what the layer is given: the output of a norm, or in some layer that of a projection (ALBERT, ELECTRA).
    """
    found = [
        t
        for t in anatomy.tensors.values()
        if anatomy.layer_of(t) == layer and len(t.dims) == 2
        and (t.role in ("q", "k") or (t.role == "qkv" and t.dims[0].parts == 3))
    ]  # fmt: skip
    # layers that are shared in several groups have queries in each, and the heads of all are cut as those of one
    return found if anatomy.shared_layers else [t for t in found if t.reads_norm] or found


def writer(anatomy: Anatomy, layer: int, role: str) -> TensorInfo | None:
    """The matrix of a layer that has a role, `o` or `ffn_out`."""
    return next(
        (t for t in anatomy.tensors.values() if anatomy.layer_of(t) == layer and t.role == role and len(t.dims) == 2),
        None,
    )
