"""The notebook runs from top to bottom, on little data, and prints what it shows in place."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

from testing import ROOT


NOTEBOOK = ROOT / "examples" / "one_model_many_sizes.ipynb"


def printed(cell):
    return "".join(o.text for o in cell.get("outputs", []) if o.output_type == "stream" and o.name == "stdout")


def test_the_notebook_runs(monkeypatch):
    notebook = nbformat.read(NOTEBOOK, 4)
    kept = [printed(cell) for cell in notebook.cells]
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source = "STEPS, LAYERS, EXAMPLES = 3, 2, 160"
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [printed(cell) for cell in notebook.cells]
    assert any("what becomes of it" in text for text in outputs)
    assert any("the same function" in text for text in outputs)
    assert [bool(text) for text in outputs] == [bool(text) for text in kept]  # it was saved as it runs
    assert not any(o.output_type == "error" for c in notebook.cells for o in c.get("outputs", []))
