"""The command line, as a person would use it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from hf_learngene.cli import app


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("HF_LEARNGENE_DEBUG", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])
