"""What is loaded, and when: torch and transformers take seconds, and nobody waits for them who only asks for help."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_learngene


HEAVY = ("torch", "transformers", "numpy", "matplotlib", "datasets", "sklearn", "evaluate", "huggingface_hub", "PIL")
SOURCE = Path(hf_learngene.__file__)


def loaded_by(code: str) -> list[str]:
    """The heavy packages that a fresh process has after `code`."""
    tell = f"import json, sys; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import hf_learngene; hf_learngene.errors; dir(hf_learngene)") == []


def test_help_of_every_command_loads_nothing_heavy():
    code = """
from typer.testing import CliRunner
from hf_learngene.cli import app
names = [command.name for command in app.registered_commands]
assert len(names) > 8, names
for arguments in [[], ["--help"], ["--version"], *([name, "--help"] for name in names)]:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == (2 if arguments == [] else 0) and done.output, (arguments, done.output)
"""
    assert loaded_by(code) == []


def test_the_command_line_is_not_loaded_by_the_package():
    code = "import hf_learngene, sys; assert not {'typer', 'rich', 'hf_learngene.cli'} & sys.modules.keys()"
    assert loaded_by(code) == []


def test_a_learngene_is_known_to_transformers_once_a_learngene_name_is_used():
    code = """
from transformers import CONFIG_MAPPING
import hf_learngene
assert "learngene_wave" not in CONFIG_MAPPING
hf_learngene.AutoLearngene
assert "learngene_wave" in CONFIG_MAPPING
"""
    assert "transformers" in loaded_by(code)


def test_every_public_name_is_found_and_typed():
    """`__all__`, the home of each name, and what a type checker is told agree."""
    lazy = {name for name in hf_learngene.__all__ if name not in ("__version__", "errors")}
    assert lazy == set(hf_learngene._HOME)
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in typed.body for alias in node.names}
    assert told == {name: f"hf_learngene.{home}" for name, home in hf_learngene._HOME.items()}
    assert [name for name in hf_learngene.__all__ if getattr(hf_learngene, name, None) is None] == []
    assert set(hf_learngene.__all__) <= set(dir(hf_learngene))
    with pytest.raises(AttributeError, match="no attribute 'resizes'"):
        hf_learngene.resizes  # noqa: B018
