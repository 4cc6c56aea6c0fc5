"""Tables that people read: what became of each tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table

from hf_learngene.tables import render


if TYPE_CHECKING:
    from hf_learngene.resizing.plan import Plan, TensorOrigin


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


def plan_table(plan: Plan) -> str:
    """The table of a plan, with sizes and parameter counts above it."""
    share = plan.num_parameters / plan.source_parameters
    head = (
        f"{plan.model_class.__name__}, method {plan.method}: {plan.changes}\n"
        f"parameters {plan.source_parameters:,} → {plan.num_parameters:,} ({share:.1%})"
    )
    table = Table(show_edge=False, pad_edge=False, box=None)
    table.add_column("tensor", overflow="fold")
    for title in ("source", "target"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("what becomes of it", overflow="fold")
    for name, tensor, _ in grouped(plan.tensors):
        table.add_row(name, shape_text(tensor.source_shape), shape_text(tensor.shape), tensor.origin)
    return f"{head}\n\n{render(table)}"
