"""`resize-adapter`, as a person would use it: behind `resize`, with what peft saved."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from testing.adapters import adapted, lora, output
from testing.families import tiny_model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny_model("bert", "BertForSequenceClassification", dtype=torch.float32).save_pretrained(folder / "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "bert")
    source = adapted(model, lora("query", "value", modules_to_save=["classifier"], task_type="SEQ_CLS"))
    source.save_pretrained(folder / "adapter")
    return folder, source


@pytest.mark.parametrize("named", [True, False])
def test_from_a_resized_base_to_its_adapter(run, world, tmp_path, named):
    folder, source = world
    assert run("resize", folder / "bert", "wide", "--hidden-size", 48, "--num-hidden-layers", 4).exit_code == 0
    given = ("--source", folder / "bert") if named else ()
    done = run("resize-adapter", folder / "adapter", "wide", "wide-adapter", *given)
    assert done.exit_code == 0, done.output
    assert 'Load it with PeftModel.from_pretrained(base, "wide-adapter")' in done.output
    assert {f.name for f in (tmp_path / "wide-adapter").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    settings = json.loads((tmp_path / "wide-adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "wide"
    base = AutoModelForSequenceClassification.from_pretrained("wide")
    made = peft.PeftModel.from_pretrained(base, "wide-adapter").eval()
    torch.testing.assert_close(output(made, base), output(source, base), rtol=0, atol=1e-4)
    again = run("resize-adapter", folder / "adapter", "wide", "wide-adapter")
    assert (again.exit_code, "exists" in again.output) == (2, True)


def test_a_base_that_was_not_resized_is_an_error_in_one_line(run, world):
    folder, _ = world
    wrong = run("resize-adapter", folder / "adapter", folder / "bert", "out")
    assert wrong.exit_code == 2
    assert "was not resized by this package" in wrong.output
    wrong = run("resize-adapter", folder / "bert", folder / "bert", "out")
    assert wrong.exit_code == 2
