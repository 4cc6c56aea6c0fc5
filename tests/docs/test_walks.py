"""The walks of docs/how_it_works.md lead along functions that are called, in the files that they name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import hf_learngene
from hf_learngene import AutoLearngene, AutoModelForImageClassification, resize
from testing import ROOT
from testing.examples import examples_for
from testing.families import tiny_model


PACKAGE = Path(hf_learngene.__file__).parent
TEXT = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8").partition("\n## Three walks\n")[2]
WALKS = dict(re.findall(r"^### `([^\n]+)`\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL))
CALLS = ("from_pretrained_resized", "resize", "learngene.initialize")


def rows(walk):
    """(files, functions) of each row of a walk's table."""
    found = re.findall(r"^\| \d+ \| (.+?) \| (.+?) \|", walk, re.MULTILINE)
    return [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in found]


def traced(call):
    """(file, function) of everything of the package that is called."""
    seen = set()

    def note(frame, event, _):
        if event == "call":
            seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    inside = [(Path(file), name) for file, name in seen if Path(file).is_relative_to(PACKAGE)]
    return {(file.relative_to(PACKAGE).as_posix(), name) for file, name in inside}


@pytest.fixture
def calls(tmp_path):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    learngene = AutoLearngene.from_ancestry(model, "wave", template_size=8, template_share=0.4)
    return {
        "from_pretrained_resized": lambda: AutoModelForImageClassification.from_pretrained_resized(
            tmp_path, hidden_size=16, method="weight_selection"
        ),
        "resize": lambda: resize(model, hidden_size=16, calibration=examples_for(model, 96)),
        "learngene.initialize": lambda: learngene.initialize(num_hidden_layers=2),
    }


def test_there_are_three_walks_of_twelve_rows_at_most():
    assert tuple(title.partition("(")[0] for title in WALKS) == CALLS
    assert all(6 < len(rows(walk)) <= 12 for walk in WALKS.values())


@pytest.mark.parametrize("walk", CALLS)
def test_each_row_is_called_in_the_file_that_it_names(walk, calls):
    called = traced(calls[walk])
    table = next(rows(text) for title, text in WALKS.items() if title.partition("(")[0] == walk)
    lost = [(files, name) for files, names in table for name in names if not called & {(f, name) for f in files}]
    assert lost == []
