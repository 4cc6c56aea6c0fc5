"""What the tests with a Hub on loopback share: a model, a card, and the command line as a job."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

import safetensors.torch
import torch
from typer.testing import CliRunner

from hf_learngene import AutoLearngene, AutoModelForSequenceClassification
from hf_learngene.cli import app
from testing.families import tiny_model
from testing.hub import Hub


CARD = "---\nlicense: mit\n---\n\n# A model\n"


OPTIONS = {"sws": {"num_stages": 3}, "wave": {"template_size": 8, "template_share": 0.4}}


def classifier(seed: int = 0):
    return tiny_model("bert", "BertForSequenceClassification", dtype=torch.float32, seed=seed)


def warm_up() -> None:
    """What every job needs and forks inherit: modules that are loaded on first use, and anatomies."""
    with TemporaryDirectory() as folder:
        classifier().save_pretrained(folder)
        for given in ({"hidden_size": 16, "calibration": None}, {"method": "random"}):
            AutoModelForSequenceClassification.from_pretrained_resized(folder, **given)
        AutoLearngene.from_ancestry(folder, "sws", **OPTIONS["sws"])


def pushed(hub: Hub, name: str, revision: str = "main") -> dict[str, torch.Tensor]:
    return safetensors.torch.load(hub.files(name, revision)["model.safetensors"])


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


def cli(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command; what it does not catch is raised."""
    os.environ["COLUMNS"] = "200"
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
