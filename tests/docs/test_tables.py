"""README and the methods' page list what is registered: `make tables` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_learngene.learngenes import registered_learngenes
from hf_learngene.methods import METHODS


ROOT = next(p for p in Path(__file__).parents if (p / "setup.cfg").is_file())


@pytest.fixture(scope="module")
def tables():
    sys.path.insert(0, str(ROOT / "docs" / "_extensions"))
    try:
        import registered_tables
    finally:
        sys.path.pop(0)
    return registered_tables


def ours(registered) -> list[str]:
    return [name for name, cls in registered.items() if cls.__module__.startswith("hf_learngene.")]


def test_the_pages_hold_what_make_tables_writes(tables):
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text, page) == text, f"{page.name} is behind the registry: run `make tables`"


def test_every_method_is_listed_with_its_own_page(tables):
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        for name in ours(METHODS):
            target = tables.page_of(name)
            assert target.is_file(), f"{name} needs docs/methods/{name}.md"
            assert tables.link(f"`{name}`", page, target) in text, (page.name, name)
            assert (page.parent / tables.link("", page, target)[3:-1]).resolve() == target


def test_every_learngene_is_listed():
    for page in (ROOT / "README.md", ROOT / "docs" / "learngenes.md"):
        text = page.read_text(encoding="utf-8")
        assert [name for name in ours(registered_learngenes()) if f"| `{name}` |" not in text] == [], page.name


def test_a_stale_table_is_found(tables):
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    stale = text.replace("`front`", "`frond`")
    assert stale != text
    assert tables.filled(stale, page) == text
