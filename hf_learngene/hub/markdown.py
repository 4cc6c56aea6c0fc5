"""Text of others inside Markdown: what a config or a folder's name says stays text, and becomes neither markup nor HTML."""

from __future__ import annotations

import re
from typing import Any


def plain(text: Any) -> str:
    r"""Any value as a line of plain text.

    Example:
        >>> print(plain("<b>[me](x)</b>\n# now"))
        &lt;b&gt;\[me\](x)&lt;/b&gt; # now
    """
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", line)


def code_span(text: Any) -> str:
    """Any value as inline code, whatever backticks are in it.

    Example:
        >>> print(code_span("a"), code_span("a`b"))
        `a` ``a`b``
    """
    line = " ".join(str(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def table(rows: list[list[Any]]) -> str:
    """A table of rows of plain text; the second row is the rule between head and body."""
    return "\n".join("| " + " | ".join(map(plain, row)) + " |" for row in rows)
