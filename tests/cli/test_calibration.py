"""Calibration's words on the command line: the same as in Python, and the same model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel as Plain

from hf_learngene import AutoModel
from testing.families import tiny_model
from testing.saving import tokenizer
from testing.training import NO_DROPOUT


SIZE = {"intermediate_size": 20}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, its tokenizer elsewhere, and a table of pairs."""
    folder = tmp_path_factory.mktemp("world")
    tiny_model("bert", "BertModel", NO_DROPOUT, dtype=torch.float32).save_pretrained(folder / "bert")
    tokenizer().save_pretrained(folder / "words")
    with (folder / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["first", "second", "label"])
        rows.writerows(
            [["good film", "a fine plot", 1], ["bad plot and poor film", "no", 0], ["fine", "good", 1]] * 20
        )
    return folder


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        (("--calibration-column", "second"), {"calibration_column": "second"}),
        (("--calibration-column", "second, first"), {"calibration_column": ("second", "first")}),
        (("--calibration-column", "first", "--calibration-size", 33),
         {"calibration_column": "first", "calibration_size": 33}),
    ],
)  # fmt: skip
def test_the_model_is_the_one_that_python_makes(run, world, flags, given):
    made = run(
        "resize", world / "bert", "small", "--size", "intermediate_size=20", "--calibration", world / "pairs.csv",
        "--processing-class", world / "words", *flags,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert made.stdout.count("Calibrated on ") == 1
    assert "Calibrated on " not in made.stderr
    assert made.stdout.index("Calibrated on ") > made.stdout.index("tensor ")
    wanted = AutoModel.from_pretrained_resized(
        world / "bert", calibration=world / "pairs.csv", processing_class=world / "words", **given, **SIZE
    )
    found = Plain.from_pretrained("small")
    for a, b in zip(found.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert found.config.learngene["calibration"] == wanted.config.learngene["calibration"]
    count = given.get("calibration_size", 60)
    record = json.loads(Path("small/config.json").read_text())["learngene"]["calibration"]
    assert record["count"] >= count


def test_the_source_s_own_processor_is_found(run, world, tmp_path):
    Plain.from_pretrained(world / "bert").save_pretrained("whole")
    tokenizer().save_pretrained("whole")
    (tmp_path / "a.txt").write_text("good film\n\nbad plot\n" * 30)
    made = run("resize", "whole", "small", "--size", "intermediate_size=20", "--calibration", "a.txt")
    assert made.exit_code == 0, made.output
    assert "method calibrated" in made.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--calibration", "none.csv"), "none.csv does not exist"),
        (("--calibration", "{world}/pairs.csv"), "Which column is to be read? The examples hold 'first', 'second'"),
        (("--calibration", "{world}/pairs.csv", "--calibration-column", "frist"), "no column 'frist'; they have 'first', "
         "'second', 'label'. Did you mean 'first'?"),
        (("--calibration", "{world}/pairs.csv", "--calibration-column", "a,b,c"), "or two of a pair as NAME,NAME"),
        (("--calibration-column", "first"), "names a column of your own examples: give calibration= too"),
        (("--calibration", "none", "--method", "calibrated"), "looks at examples: give calibration="),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_a_line(run, world, flags, message):
    made = run(
        "resize", world / "bert", "small", "--size", "intermediate_size=20", "--processing-class", world / "words",
        *(str(f).format(world=world) for f in flags),
    )  # fmt: skip
    assert made.exit_code == 2
    assert message in " ".join(made.output.split())
    assert not Path("small").exists()


def test_a_file_that_is_not_there_is_told_before_the_model_is_looked_at(run):
    made = run("resize", "no-such-model", "small", "--hidden-size", 16, "--calibration", "none.csv")
    assert made.exit_code == 2
    assert "none.csv does not exist" in made.output


def test_none_shrinks_without_examples(run, world):
    for command in (("plan", world / "bert"), ("resize", world / "bert", "small")):
        made = run(*command, "--size", "intermediate_size=20", "--calibration", "none")
        assert made.exit_code == 0, made.output
        assert "method weight_selection" in made.output
