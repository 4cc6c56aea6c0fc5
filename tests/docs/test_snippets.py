"""Every snippet and every command of README and docs runs, in order, against a Hub on loopback that has the models they name."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)
from typer.testing import CliRunner

# What pages import, once for all: each page is a fork of the process that has loaded this module.
from hf_learngene import AutoLearngene, LearngeneTrainer, compare, plan, resize  # noqa: F401
from hf_learngene.calibration.synthetic import count as synthetic_count
from hf_learngene.cli import app
from testing import ROOT
from testing.hub import OWNER, Hub
from testing.saving import tokenizer


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "methods").glob("*.md"))]
BLOCK = re.compile(r"^```(python|bash|)\n(.*?)^```$|^<!-- setup\n(.*?)^-->$", re.DOTALL | re.MULTILINE)
# Runs that take hours, made short, and sizes of the two models that pages name, which are served an eighth as wide.
SHORTER = {
    "hidden_size=384": "hidden_size=48",
    "--hidden-size 384": "--hidden-size 48",
    "--sizes hidden_size=192": "--sizes hidden_size=24",
    "intermediate_size=1536": "intermediate_size=192",
    'params="20M"': 'params="0.3M"',
    "latency=0.5": "latency=0.9",
    "max_steps=300": "max_steps=2",
    "--steps 2000": "--steps 1 --batch-size 2",
    "--steps 300": "--steps 2 --batch-size 2",
    "--learning-rate calibrated=3e-5": "--learning-rate calibrated=3e-5 --steps 1 --seeds 1 --batch-size 2 --eval-limit 2 "
    "--calibration-size 2",
}
# Commands about the checkout itself: the first are CI's own steps, benchmarks are run by hand, and examples have their own tests.
ELSEWHERE = ("make ", "pip install ", "python benchmarks/", "python docs/", "python examples/")
# Made-up examples a shrink: a third of the default, and still more tokens than the widest matrix here has inputs (1,536).
FEW = 192
VIT, BERT = "google/vit-base-patch16-224", "google-bert/bert-base-uncased"


def pieces(page: Path) -> list[tuple[str, str]]:
    """(kind, text) of what a page runs, in order."""
    found = []
    for kind, text, setup in BLOCK.findall(page.read_text(encoding="utf-8")):
        if setup or kind == "python":
            found.append(("python", setup or text))
            continue
        text = text.replace("\\\n", " ")
        found += [("command", line.partition(" #")[0].strip()) for line in text.splitlines() if is_command(line)]
    return found


def is_command(line: str) -> bool:
    return line.startswith(("hf-learngene ", "python ", "pip ", "make "))


def run_page(found: list[tuple[str, str]], folder: str) -> list[str]:
    """Runs in a process of its own; what it printed, piece by piece."""
    signal.alarm(900)  # models of real sizes
    os.chdir(folder)
    synthetic_count.MOST = FEW
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = []
    for kind, text in found:
        for long, short in () if "Config(" in text else SHORTER.items():  # unless it makes a model of its own
            text = text.replace(long, short)
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, "<snippet>", "exec"), namespace)
            printed.append(out.getvalue())
            continue
        done = CliRunner().invoke(app, shlex.split(text)[1:])
        assert done.exit_code == 0, f"{text}\n{done.output}\n{done.exception!r}"
        printed.append(done.output)
    return printed


def place(folder: Path) -> None:
    """What pages take for granted: pictures in a folder for each class, a few texts, and a classifier of them."""
    rng = np.random.default_rng(0)
    for part in ("images", "train", "test"):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for number in range(8):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{number}.png")
    (folder / "films.txt").write_text("a film with no plot\nwhat a fine film\n" * 4)
    rows = [
        {"sentence": text, "label": i % 2} for i, text in enumerate(["a film with no plot", "what a fine film"] * 20)
    ]
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = tokenizer()
    labels = {0: "negative", 1: "positive"}
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 1536, "num_hidden_layers": 6}
    config = BertConfig(vocab_size=len(words), id2label=labels, label2id={n: i for i, n in labels.items()}, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder / "minilm-l6-sst2")
    words.save_pretrained(folder / "minilm-l6-sst2")


def publish(hub: Hub, folder: Path) -> None:
    """The models that pages name: as deep and with as many heads as they have, an eighth as wide, with random weights."""
    labels = {0: "cat", 1: "dog"}
    smaller = {"hidden_size": 96, "intermediate_size": 384}
    vit = ViTConfig(image_size=64, id2label=labels, label2id={n: i for i, n in labels.items()}, **smaller)
    size = {"height": 64, "width": 64}
    words = tokenizer()
    torch.manual_seed(0)
    for name, model, inputs in (
        (VIT, ViTForImageClassification(vit), ViTImageProcessorPil(size=size)),
        (BERT, BertForMaskedLM(BertConfig(vocab_size=len(words), **smaller)), words),
    ):
        out = folder / name
        model.save_pretrained(out)
        inputs.save_pretrained(out)
        hub.create(name)
        hub.upload(name, out, **{"README.md": "---\nlicense: apache-2.0\n---\n"})


@pytest.fixture(scope="module")
def online(served, client, tmp_path_factory):
    served.users[OWNER] = "me"
    publish(served, tmp_path_factory.mktemp("world"))
    return client


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_everything_on_a_page_runs(page, online, tmp_path):
    found = [(kind, text) for kind, text in pieces(page) if not text.startswith(ELSEWHERE)]
    place(tmp_path)
    printed = online.run(run_page, found, str(tmp_path), cache=online.home / "shared")
    assert len(printed) == len(found)


def test_every_page_with_code_is_looked_at():
    counts = {page.stem: len(pieces(page)) for page in PAGES}
    assert counts["README"] >= 10
    assert counts["quickstart"] >= 8
    for page in PAGES:
        fences = re.findall(r"^```(\w*|\{.*\})$", page.read_text(), re.MULTILINE)[::2]
        assert set(fences) <= {"python", "bash", "", "{toctree}"}, page
