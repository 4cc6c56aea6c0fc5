"""`hf-learngene methods`: everything that the registries hold, with nothing written down twice."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from hf_learngene.cli import app
from hf_learngene.learngenes import registered_learngenes
from hf_learngene.methods import METHODS, Method, Paper, register_method


def run(*arguments: str, columns: int = 160):
    return CliRunner().invoke(app, ["methods", *arguments], env={"COLUMNS": str(columns)})


def rows(text: str) -> dict[str, str]:
    """First word of each line -> the line."""
    return {line.split()[0]: line for line in text.splitlines() if line and not line.startswith(" ")}


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_every_method_and_learngene_has_a_row_with_its_paper(columns):
    result = run(columns=columns)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= columns
    found = rows(result.stdout)
    for name, described in {**METHODS, **registered_learngenes()}.items():
        assert name in found
        if columns == 160:
            assert described.summary.split()[0] in found[name]
            assert described.paper is None or described.paper.arxiv in found[name]
    assert "auto" in found


def test_a_row_says_which_way_it_goes_and_what_data_it_needs():
    found = rows(run().stdout)
    ways = {name: len(re.findall(r"\byes\b", found[name])) for name in METHODS}
    assert ways == {name: method.shrinks + method.grows for name, method in METHODS.items()}
    needing = {name for name in METHODS if {"labelled", "unlabelled"} & set(re.split(r" {2,}", found[name]))}
    assert needing == {name for name, method in METHODS.items() if method.needs_examples}


def test_a_method_that_somebody_else_registers_is_listed(monkeypatch):
    monkeypatch.setattr("hf_learngene.methods.registry.METHODS", known := dict(METHODS))

    @register_method
    @dataclass(frozen=True)
    class Halves(Method):
        """Every other entry.

        Args:
            odd (`bool`): the odd ones.
        """

        name = "halves"
        paper = Paper("On halves", "2401.00001")
        summary = "every other entry of each tensor"
        shrinks = True
        odd: bool = False

    assert "halves" in known
    line = rows(run().stdout)["halves"]
    assert "every other entry" in line
    assert "2401.00001" in line
    explained = run("halves").stdout
    assert "odd (`bool`)" in explained
    assert "https://arxiv.org/abs/2401.00001" in explained


@pytest.mark.parametrize("name", [*METHODS, "auto", *registered_learngenes()])
def test_each_is_explained_with_its_options(name):
    result = run(name)
    assert result.exit_code == 0, result.output
    described = METHODS.get(name) or registered_learngenes().get(name)
    options = described.option_names() if described else []
    assert [o for o in options if o not in result.stdout] == []
    assert name in result.stdout.splitlines()[0]


def test_an_unknown_name_gets_a_hint():
    result = run("lemmon")
    assert result.exit_code == 2
    assert "Did you mean 'lemon'?" in result.stderr
