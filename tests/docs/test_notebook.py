"""The notebook runs from top to bottom, on little data, and prints what it shows in place."""

from __future__ import annotations

import ast
import contextlib
import io

import matplotlib.pyplot as plt
import nbformat
import pytest
from transformers.utils import logging

from testing import ROOT


NOTEBOOK = ROOT / "examples" / "one_model_many_sizes.ipynb"


@pytest.fixture
def verbosity():
    """The notebook turns warnings off; what runs after it has them."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)
    plt.close("all")


def shown(cell):
    """What a cell has on record: the text it printed, whether it gave a value, and how many pictures it drew."""
    outputs = cell.get("outputs", [])
    text = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    pictures = sum("image/png" in o.get("data", {}) for o in outputs)
    return bool(text), any(o.output_type == "execute_result" for o in outputs), pictures


def run(source, scope):
    """Runs a cell as a kernel does: (what it printed, the value of a last line that is an expression)."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";") else None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "<cell>", "exec"), scope)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope) if last else None
    return out.getvalue(), value


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_notebook_runs(verbosity, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    (parameters,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source = "STEPS, LAYERS, EXAMPLES = 3, 2, 160"
    scope, printed = {"__name__": "__main__"}, ""
    for cell in cells:
        before = len(plt.get_fignums())
        text, value = run(cell.source, scope)
        printed += text
        assert (bool(text), value is not None, len(plt.get_fignums()) - before) == shown(cell), cell.source
    assert "the same function" in printed
