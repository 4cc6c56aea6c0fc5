"""Tables for people, as plain text."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table


def render(table: Table, width: int = 120) -> str:
    """A rich table as plain text, for `print` and for files."""
    out = io.StringIO()
    # in a notebook rich would show the table at once, and what is returned here would be empty
    Console(file=out, width=width, no_color=True, highlight=False, force_jupyter=False, force_terminal=False).print(
        table
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
