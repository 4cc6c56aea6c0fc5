"""The API pages: whoever adds, renames or removes a public name has to say so there."""

from __future__ import annotations

import re
from importlib import import_module
from inspect import getdoc, isclass, signature

import pytest

import hf_learngene
from hf_learngene import errors
from hf_learngene.learngenes import registered_learngenes
from hf_learngene.methods import METHODS
from testing import ROOT
from testing.families import mapping_families
from testing.learngenes import KINDS
from testing.method_tester import shipped


DOCS = ROOT / "docs"
ENTRY = re.compile(r"^ *\.\. auto\w+:: ([\w.]+).*\n((?:   :.*\n)*)", re.MULTILINE)
MEMBERS = re.compile(r":members:(.*)")
ARGUMENTS = re.compile(r"^Args:\n((?: {4}.*\n|\n)*)", re.MULTILINE)


def entries():
    """Entry -> names of its members; None for all of them."""
    pages = [DOCS / "api.md", *(DOCS / "api").glob("*.md")]
    found = {}
    for name, options in ENTRY.findall("".join(page.read_text(encoding="utf-8") for page in pages)):
        assert name not in found, f"{name} has two entries"
        listed = MEMBERS.search(options)
        names = [n.strip() for n in listed[1].split(",") if n.strip()] if listed else []
        found[name] = None if listed and not names else names
    return found


ENTRIES = entries()
PAGES = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))


def named(name):
    """The object of a dotted name, as autodoc finds it."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_every_public_name_has_an_entry():
    assert [n for n in hf_learngene.__all__ if f"hf_learngene.{n}" not in ENTRIES] == []


def test_every_error_has_an_entry():
    """All members of the module are shown, so each needs a docstring."""
    assert ENTRIES["hf_learngene.errors"] is None
    classes = [c for c in vars(errors).values() if isinstance(c, type) and c.__module__ == errors.__name__]
    assert [c.__name__ for c in classes if not c.__doc__] == []


def test_every_entry_exists():
    """With a docstring: without one autodoc leaves it out."""
    names = [*ENTRIES, *(f"{entry}.{member}" for entry, members in ENTRIES.items() for member in members or ())]
    assert [n for n in names if not exists(n)] == []


def exists(name):
    try:
        return isinstance(named(name), str) or bool(getdoc(named(name)))
    except AttributeError:
        return False


def test_arguments_are_those_of_the_signature():
    """All of them for a function; a line that continues an argument and stands too far left would be one more."""
    wrong = {}
    for entry in ENTRIES:
        found = named(entry)
        section = ARGUMENTS.search(f"{getdoc(found)}\n")
        if section is None or entry.startswith("hf_learngene.metrics"):  # a metric's are those of its `compute`
            continue
        names = re.findall(r"^ {4}\**(\w+)", section[1], re.MULTILINE)
        known = [name for name in signature(found).parameters if name != "self"]
        extra = [n for n in names if n not in known]
        lacking = [n for n in known if n not in names and not isclass(found)]
        wrong |= {entry: (extra, lacking)} if extra or lacking else {}
    assert wrong == {}


@pytest.mark.parametrize("registry", ["methods", "learngenes"])
def test_a_page_lists_the_registry(registry):
    """Its classes are written in by the build, so that a new one needs no line there."""
    assert PAGES.count(f".. registered:: {registry}\n") == 1


@pytest.mark.parametrize("name", shipped())
def test_every_option_of_a_method_is_described(name):
    method = METHODS[name]
    assert [o for o in method.option_names() if f"{o} (`" not in getdoc(method)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_learngene_and_its_options_are_described(kind):
    config = registered_learngenes()[kind]
    assert [o for o in config.option_names() if f"{o} (`" not in getdoc(config)] == []


def test_every_page_is_listed():
    listed = re.findall(r"^api/(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in (DOCS / "api").glob("*.md"))


def test_the_page_of_families_knows_every_family_of_the_mappings():
    page = (DOCS / "families.md").read_text(encoding="utf-8")
    assert [kind for kind in mapping_families() if f"`{kind}`" not in page] == []
