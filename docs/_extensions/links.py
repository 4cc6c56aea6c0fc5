"""Links of the pages, written for GitHub, made right for the built docs.

What they link to outside docs/ (results, examples, CONTRIBUTING.md) is copied to docs/outside/ at the same path, and is
built too. `api/core.md#hf_learngene.resize` becomes the entry itself.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
COPIES = DOCS / "outside"

FENCE = re.compile(r"^[ ]*(`{3,}|~{3,}).*?^[ ]*\1`*[ ]*$", re.MULTILINE | re.DOTALL)
TOCTREE = re.compile(r"^(?P<head>(?:[^\n]*<)?)(?P<target>\.{1,2}/[^\s<>]+)(?P<tail>>?)$", re.MULTILINE)
LINK = re.compile(r"(?P<head>\]\(|^\[[^\]\n]+\]:[ ]+)(?P<target>[^)\s]+)(?P<tail>)", re.MULTILINE)
NOT_A_FILE = re.compile(r"[a-z]+:|#|<")
ENTRY = re.compile(r"[^#]*api/\w+\.md#(hf_learngene[\w.]*)")


def rewritten(text: str, change: Callable[[str], str]) -> str:
    """The page with every link changed: those in code stay, but for the entries of a toctree."""

    def replaced(pattern: re.Pattern[str], part: str) -> str:
        return pattern.sub(lambda m: f"{m['head']}{change(m['target'])}{m['tail']}", part)

    parts, at = [], 0
    for fence in FENCE.finditer(text):
        parts.append(replaced(LINK, text[at : fence.start()]))
        parts.append(replaced(TOCTREE, fence[0]) if "{toctree}" in fence[0].partition("\n")[0] else fence[0])
        at = fence.end()
    return "".join([*parts, replaced(LINK, text[at:])])


def targets(page: Path) -> Iterator[Path]:
    """The files that a page links to, where they lie in the repository."""
    found: list[str] = []

    def kept(target: str) -> str:
        found.append(target)
        return target

    rewritten(page.read_text(encoding="utf-8"), kept)
    for target in found:
        if not NOT_A_FILE.match(target):
            path = file_at(page, target)
            if path.is_file() and ROOT in path.parents:
                yield path


def file_at(page: Path, target: str) -> Path:
    path = (page.parent / target.partition("#")[0]).resolve()
    return path / "README.md" if path.is_dir() and DOCS not in path.parents else path


def built(path: Path) -> Path:
    """Where a file of the repository lies for Sphinx."""
    return path if DOCS in path.parents else COPIES / path.relative_to(ROOT)


def copy_linked(app: Any) -> None:
    wanted: dict[Path, None] = {}
    waiting = [p for p in DOCS.rglob("*.md") if not {"_build", COPIES.name} & set(p.relative_to(DOCS).parts)]
    while waiting:
        page = waiting.pop()
        for path in targets(page):
            if DOCS not in path.parents and path not in wanted:
                wanted[path] = None
                waiting += [path] if path.suffix == ".md" else []
    shutil.rmtree(COPIES, ignore_errors=True)
    for path in wanted:
        built(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, built(path))


def read(app: Any, docname: str, content: list[str]) -> None:
    here = DOCS / f"{docname}.md"
    original = ROOT / here.relative_to(COPIES) if COPIES in here.parents else here

    def change(target: str) -> str:
        if entry := ENTRY.fullmatch(target):
            return entry[1]
        path = file_at(original, target)
        if NOT_A_FILE.match(target) or not path.is_file() or ROOT not in path.parents:
            return target
        hash_, anchor = target.partition("#")[1:]
        return Path(os.path.relpath(built(path), here.parent)).as_posix() + hash_ + anchor

    content[0] = rewritten(content[0], change)
    if original != here:
        content[0] = "---\norphan: true\n---\n\n" + content[0]
        if original.name == "README.md" and original.parent != ROOT:
            below = (p for p in targets(original) if p.suffix == ".md" and original.parent in p.parents)
            content[0] += toctree(dict.fromkeys(os.path.relpath(p, original.parent) for p in below))


def toctree(entries: Iterable[str]) -> str:
    return "\n".join(["", "```{toctree}", ":hidden:", "", *entries, "```", ""])


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", copy_linked)
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
