"""Tables that people read: where each tensor comes from, and what a refit left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from hf_learngene.maps.layer_map import moved, spans
from hf_learngene.pruning.refit import Fitted
from hf_learngene.resizing.origins import TensorOrigin
from hf_learngene.tables import render


def shape_text(shape: tuple[int, ...] | None) -> str:
    """`768×768`, or a dash for what has no source."""
    return "–" if shape is None else "×".join(map(str, shape)) or "1"


class Group(NamedTuple):
    """Tensors of several layers that come from the source in the same way.

    Attributes:
        name: their name with the layers, such as `layers.{0-5}.mlp.fc1.weight`.
        one: one of them.
        layers: which source layers they come from and which they become; nothing where each stays in its place.
    """

    name: str
    one: TensorOrigin
    layers: str


def grouped(tensors: Iterable[TensorOrigin]) -> list[Group]:
    """Tensors of all layers that share an origin, in one row."""
    rows: dict[tuple, list[TensorOrigin]] = {}
    for tensor in tensors:
        key = (tensor.template or tensor.name, tensor.shape, tensor.source_shape, tensor.origin)
        rows.setdefault(key, []).append(tensor)
    found = []
    for (template, *_), members in rows.items():
        layers = [t.layer for t in members if t.layer is not None]
        pairs = [(t.source_layer, t.layer) for t in members if t.source_layer is not None and t.layer is not None]
        moves = moved(pairs) if any(a != b for a, b in pairs) else ""
        found.append(Group(template.format(_ranges(layers)) if layers else template, members[0], moves))
    return found


def _ranges(numbers: list[int]) -> str:
    """`{0-11}`, `{0-2,4}`."""
    if len(numbers) == 1:
        return str(numbers[0])
    if len(numbers) == 2 and numbers[1] == numbers[0] + 1:
        return f"{{{numbers[0]}-{numbers[1]}}}"
    return "{" + spans(numbers, "-", ",") + "}"


def origin_table(tensors: Iterable[TensorOrigin]) -> Table:
    """A row for each group of tensors that come from the source in the same way."""
    groups = grouped(tensors)
    moves = any(group.layers for group in groups)
    table = Table(show_edge=False, pad_edge=False, box=None)
    table.add_column("tensor", no_wrap=True)  # a name is looked for as it stands
    for title in ("source", "target"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("origin", overflow="fold")
    if moves:
        table.add_column("layers", overflow="fold")
    for group in groups:
        cells = [group.name, shape_text(group.one.source_shape), shape_text(group.one.shape), group.one.origin]
        table.add_row(*map(escape, [*cells, *([group.layers] if moves else [])]))
    return table


def fit_table(fits: Sequence[Fitted]) -> str:
    """A row for each step of a refit: the relative error against the source before and after it."""
    table = Table(box=None, pad_edge=False)
    for column in ("refitted", "tokens", "error before", "after"):
        table.add_column(column, justify="left" if column == "refitted" else "right")
    for fit in fits:
        table.add_row(fit.name, f"{fit.tokens:,}", f"{fit.before:.3f}", f"{fit.after:.3f}")
    return render(table)
