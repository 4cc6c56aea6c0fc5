"""Tables that people read: where each tensor comes from, and what a refit left."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.table import Table

from hf_learngene.pruning.refit import Fitted
from hf_learngene.resizing.origins import TensorOrigin
from hf_learngene.tables import render


def shape_text(shape: tuple[int, ...] | None) -> str:
    """`768×768`, or a dash for what has no source."""
    return "–" if shape is None else "×".join(map(str, shape)) or "1"


def grouped(tensors: Iterable[TensorOrigin]) -> list[tuple[str, TensorOrigin, int]]:
    """Tensors of all layers that share a origin, in one row: (name with the layer range, one of them, how many)."""
    rows: dict[tuple, list[tuple[int | None, TensorOrigin]]] = {}
    for tensor in tensors:
        match = re.search(r"\.(\d+)\.", tensor.name)
        template = f"{tensor.name[: match.start()]}.*.{tensor.name[match.end() :]}" if match else tensor.name
        key = (template, tensor.shape, tensor.source_shape, tensor.origin)
        rows.setdefault(key, []).append((int(match[1]) if match else None, tensor))
    named = []
    for (template, *_), members in rows.items():
        numbers = [n for n, _ in members if n is not None]
        name = template.replace(".*.", f".{_ranges(numbers)}.") if numbers else template
        named.append((name, members[0][1], len(members)))
    return named


def _ranges(numbers: list[int]) -> str:
    """`{0-11}`, `{0,2,4}`."""
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"


def origin_table(tensors: Iterable[TensorOrigin]) -> str:
    """A row for each group of tensors that come from the source in the same way."""
    table = Table(show_edge=False, pad_edge=False, box=None)
    table.add_column("tensor", overflow="fold")
    for title in ("source", "target"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("origin", overflow="fold")
    for name, tensor, _ in grouped(tensors):
        table.add_row(name, shape_text(tensor.source_shape), shape_text(tensor.shape), tensor.origin)
    return render(table)


def fit_table(fits: Sequence[Fitted]) -> str:
    """A row for each step of a refit: the relative error against the source before and after it."""
    table = Table(box=None, pad_edge=False)
    for column in ("refitted", "tokens", "error before", "after"):
        table.add_column(column, justify="left" if column == "refitted" else "right")
    for fit in fits:
        table.add_row(fit.name, f"{fit.tokens:,}", f"{fit.before:.3f}", f"{fit.after:.3f}")
    return render(table)
