"""The tables of methods and learngenes, from what is registered.

A page holds one between two comments, so that GitHub shows it too: `python docs/make_tables.py` (`make tables`) writes it
there, and Sphinx fills it in anew when it reads the page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PAGES = (ROOT / "README.md", DOCS / "methods" / "index.md")
AUTO = "one of the others, or two in turn, as the sizes ask"


def mark(yes: bool) -> str:
    return "✔" if yes else ""


def table(head: Sequence[str], align: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(
        "|" + "|".join(f" {cell} ".replace("  ", " ") for cell in cells) + "|" for cells in (head, align, *rows)
    )


def link(text: str, page: Path, target: Path) -> str:
    """A link from one page to another; plain text where the other does not exist."""
    if not target.is_file():
        return text
    return f"[{text}]({Path(os.path.relpath(target, page.parent)).as_posix()})"


def page_of(name: str) -> Path:
    """A method's page: docs/methods/<name>.md, or docs/<name>.md where it outgrew that."""
    page = DOCS / "methods" / f"{name}.md"
    return page if page.is_file() else DOCS / f"{name}.md"


def cited(paper: Any) -> str:
    if paper is None:
        return ""
    return f"[{paper.arxiv or paper.venue or paper.title}]({paper.url})" if paper.url else paper.title


def methods_table(page: Path) -> str:
    from hf_learngene.methods import METHODS

    rows = [("`auto`", mark(True), mark(True), "", AUTO, "")]
    rows += [
        (
            link(f"`{name}`", page, page_of(name)), mark(m.shrinks), mark(m.grows), mark(m.lossless), m.summary, cited(m.paper),
        )
        for name, m in sorted(METHODS.items())
        if m.__module__.startswith("hf_learngene.")  # others are those of a test or of a reader
    ]  # fmt: skip
    head = ("method", "shrinks", "grows", "same function", "what it does", "paper")
    return table(head, ("---", ":---:", ":---:", ":---:", "---", "---"), rows)


def learngenes_table(page: Path) -> str:
    import hf_learngene.learngenes  # noqa: F401  (registers them)
    from hf_learngene.learngenes.registry import LEARNGENE_MAPPING, registered_learngenes

    rows = []
    for name, config in sorted(registered_learngenes().items()):
        if config.__module__.startswith("hf_learngene."):
            model = LEARNGENE_MAPPING[config]
            kept = [
                "depth",
                *(["width"] if model.changes_width else []),
                *(["depths of stages"] if model.within_stages else []),
            ]
            sizes = ", ".join(kept)
            rows.append((f"`{name}`", config.summary, sizes, cited(config.paper)))
    return table(("learngene", "what is shared", "sizes", "paper"), ("---",) * 4, rows)


TABLES: dict[str, Callable[[Path], str]] = {"methods": methods_table, "learngenes": learngenes_table}


def filled(text: str, page: Path) -> str:
    """The page with what stands between `<!-- NAME -->` and `<!-- /NAME -->` written anew."""
    for name, made in TABLES.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if between.search(text):
            fresh = made(page)
            text = between.sub(lambda found, fresh=fresh: f"{found[1]}{fresh}\n{found[2]}", text)
    return text


def read(app: Any, docname: str, content: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    if page in PAGES:
        content[0] = filled(content[0], page)


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
