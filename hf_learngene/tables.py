"""Tables for people, as plain text and, for notebooks, as HTML."""

from __future__ import annotations

import io
from html import escape

from rich.console import Console
from rich.table import Table
from rich.text import Text


_FOR_WORDS = 24  # columns that are left to what may wrap beside what may not


def render(table: Table, width: int = 120, whole: bool = False) -> str:
    """A rich table as plain text, for `print` and for files; with `whole`, wider where columns may not wrap."""
    out = io.StringIO()
    # in a notebook rich would show the table at once, and what is returned here would be empty
    console = Console(
        file=out, no_color=True, highlight=False, force_jupyter=False, force_terminal=False, width=10_000
    )
    needed = console.measure(table)
    console.width = min(needed.maximum, max(width, needed.minimum + _FOR_WORDS if whole else 0))
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def html(table: Table) -> str:
    """A rich table as an HTML table, for `_repr_html_`.

    Example:
        >>> table = Table(title="sizes")
        >>> table.add_column("name")
        >>> table.add_column("size", justify="right")
        >>> table.add_row("a < b", "3")
        >>> html(table).splitlines()[-2]
        '<tr><td style="text-align: left">a &lt; b</td><td style="text-align: right">3</td></tr>'
    """
    sides = [f' style="text-align: {"right" if column.justify == "right" else "left"}"' for column in table.columns]
    heads = [_plain(column.header) for column in table.columns]
    rows = zip(*([_plain(cell) for cell in column.cells] for column in table.columns), strict=True)
    lines = ["<table>"]
    if table.title:
        lines.append(f'<caption style="text-align: left">{_plain(table.title)}</caption>')
    lines.append(f"<tr>{''.join(f'<th{s}>{h}</th>' for s, h in zip(sides, heads, strict=True))}</tr>")
    lines += [f"<tr>{''.join(f'<td{s}>{c}</td>' for s, c in zip(sides, row, strict=True))}</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def paragraphs(text: str) -> str:
    """Lines of plain text as HTML, one below the other."""
    return f"<p>{'<br>'.join(map(escape, text.splitlines()))}</p>"


def folded(summary: str, content: str) -> str:
    """HTML that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def _plain(cell: object) -> str:
    """A cell without rich's markup, escaped."""
    return escape(Text.from_markup(cell).plain if isinstance(cell, str) else str(cell))
