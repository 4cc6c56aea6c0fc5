"""Everything that writes a folder, as functions of a world of tiny checkpoints and of the folder to make."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
from tqdm import tqdm

from hf_learngene import AutoLearngene, AutoModelForImageClassification, resize_checkpoint, save_resized
from hf_learngene.cli import app
from hf_learngene.training import CheckpointSafeTrainer
from testing.adapters import adapted, lora
from testing.checkpoints import save_checkpoint, write_images, write_sentences
from testing.training import plain_trainer


class World:
    """Sources of every kind in one folder, all tiny.

    Attributes:
        folder: holds `vit`, `bert`, `texts` (a classifier), `wide` (the classifier, grown), `adapter` of it, `small` (the ViT,
            shrunk), `sws` (a learngene), `runs/checkpoint-2` (of a Trainer), `images.parquet`, `sentences.jsonl`, `corpus.txt`.
    """

    SOURCES = (
        "vit",
        "bert",
        "texts",
        "wide",
        "adapter",
        "small",
        "sws",
        "runs/checkpoint-2",
        "images.parquet",
        "corpus.txt",
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tqdm.monitor_interval = 0  # or its thread would be in no fork
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / "vit", "vit", "ViTForImageClassification", {"num_labels": 2})
        save_checkpoint(folder / "bert", "bert", "BertForMaskedLM")
        texts = save_checkpoint(folder / "texts", "bert", "BertForSequenceClassification", {"num_labels": 2})
        texts = type(texts).from_pretrained(folder / "texts")
        adapted(texts, lora("query", "value", task_type="SEQ_CLS")).save_pretrained(folder / "adapter")
        resize_checkpoint(folder / "texts", folder / "wide", hidden_size=48)
        resize_checkpoint(folder / "vit", folder / "small", num_hidden_layers=2, calibration=None)
        AutoLearngene.from_ancestry(str(folder / "vit"), "sws", num_stages=2).save_pretrained(folder / "sws")
        plain_trainer(CheckpointSafeTrainer, folder / "runs", max_steps=2, save_total_limit=1).train()
        write_images(folder / "images.parquet", 24)
        write_sentences(folder / "sentences.jsonl", 24)
        (folder / "corpus.txt").write_text("[CLS] good film [SEP]\n[CLS] bad plot word3 [SEP]\n", encoding="utf-8")

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def copy(self, name: str, folder: Path) -> Path:
        """One of the sources, free to be damaged."""
        return Path(shutil.copytree(self.folder / name, folder))

    def copied(self, folder: Path) -> World:
        """Another one, of the same content."""
        made = object.__new__(World)
        made.folder = Path(shutil.copytree(self.folder, folder))
        return made

    def warm(self, place: Path, names: Iterable[str]) -> None:
        """Runs some commands here, so that forks find all that they import, and the anatomies."""
        with mock.patch.dict(os.environ), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            for number, name in enumerate(names):
                COMMANDS[name].prepare(self, place / str(number))
                COMMANDS[name](self, place / str(number))


@dataclass(frozen=True)
class Command:
    """Something that makes a folder.

    Attributes:
        name: of the command.
        run: (world, output, variant) makes the output.
        overwrites: whether a model lies at the output before.
        goes_on: whether a finished output is no reason to refuse: the same call gives it again.
    """

    name: str
    run: Callable[[World, Path, int], Any]
    overwrites: bool = False
    goes_on: bool = False

    def __call__(self, world: World, output: Path, variant: int = 0) -> None:
        """Makes the output. Variants 0 and 1 make different ones."""
        with mock.patch.object(datasets.config, "HF_DATASETS_CACHE", world / "cache"):
            self.run(world, output, variant)

    def prepare(self, world: World, output: Path) -> None:
        """Puts there what lies there before."""
        output.parent.mkdir(parents=True, exist_ok=True)
        if self.overwrites:
            shutil.copytree(world / "small", output)


def cli(*arguments: Any) -> None:
    """A command of the command line, whose errors are raised as they are."""
    os.environ["HF_LEARNGENE_DEBUG"] = "1"
    app([str(argument) for argument in arguments], standalone_mode=False)


def _width(variant: int) -> int:
    return (16, 8)[variant]


def _save(world: World, output: Path, variant: int = 0) -> None:
    model = AutoModelForImageClassification.from_pretrained_resized(
        world / "vit", hidden_size=_width(variant), calibration=None
    )
    save_resized(model, output, source=world / "vit")


def _resize(world: World, output: Path, variant: int = 0, *more: Any) -> None:
    calibrated = ("--calibration", world / "images.parquet", "--calibration-size", 8, "--no-calibration-top-up")
    cli("resize", world / "vit", output, "--size", f"intermediate_size={_width(variant)}", *calibrated, *more)


def _stream(world: World, output: Path, variant: int = 0) -> None:
    resize_checkpoint(world / "bert", output, num_hidden_layers=4 + variant, max_shard_size="20KB")


def _trim(world: World, output: Path, variant: int = 0) -> None:
    cli("resize", world / "bert", output, "--corpus", world / "corpus.txt", "--vocab-size", 9 - variant)


def _build(world: World, output: Path, variant: int = 0) -> None:
    cli("build", world / "vit", output, "--data", world / "images.parquet", "--option", "template_size=8", "--steps", 3,
        "--batch-size", 4, "--seed", variant)  # fmt: skip


def _init(world: World, output: Path, variant: int = 0) -> None:
    cli("init", world / "sws", output, "--num-hidden-layers", 4 + variant)


def _compare(world: World, output: Path, variant: int = 0) -> None:
    cli("compare", world / "vit", output, "--data", world / "images.parquet", "--sizes", f"hidden_size={_width(variant)}",
        "--steps", 2, "--seeds", 2, "--batch-size", 4)  # fmt: skip


def _distill(world: World, output: Path, variant: int = 0) -> None:
    cli("distill", world / "small", world / "vit", output, "--data", world / "images.parquet", "--steps", 2, "--batch-size", 4,
        "--learning-rate", 1e-4, "--seed", variant)  # fmt: skip


def _adapter(world: World, output: Path, variant: int = 0) -> None:
    cli("resize-adapter", world / "adapter", world / "wide", output, "--source", world / "texts")


def _trainer_checkpoint(world: World, output: Path, variant: int = 0) -> None:
    cli("resize", world / "runs/checkpoint-2", output, "--trainer-checkpoint", "--hidden-size", 48 + 24 * variant)


def _train(world: World, output: Path, variant: int = 0) -> None:
    trainer = plain_trainer(CheckpointSafeTrainer, output, max_steps=4, save_total_limit=1, seed=variant)
    trainer.train(resume_from_checkpoint=any(output.glob("checkpoint-*")))


COMMANDS = {
    command.name: command
    for command in (
        Command("save_resized", _save),
        Command("resize", _resize),
        Command("resize --overwrite", lambda *given: _resize(*given, "--overwrite"), overwrites=True),
        Command("resize_checkpoint", _stream),
        Command("resize --corpus", _trim),
        Command("build", _build),
        Command("init", _init),
        Command("compare", _compare, goes_on=True),
        Command("distill", _distill),
        Command("resize-adapter", _adapter),
        Command("resize --trainer-checkpoint", _trainer_checkpoint),
        Command("CheckpointSafeTrainer", _train, goes_on=True),
    )
}


# ---- what a folder holds


def digests(folder: Path) -> dict[str, str]:
    """File -> digest of what it holds, but for what differs from run to run: how long things took, and pictures of it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.is_file():
            found[name] = hashlib.sha256(_timeless(path)).hexdigest()[:16]
        else:
            found[f"{name}/"] = ""
    return found


_SECONDS = re.compile(
    r'"(?:seconds|train_runtime|train_samples_per_second|train_steps_per_second)": (\[[^\]]*\]|[-\d.e+]+)'
)
_OF_ITS_PLACE = ("training_args.bin", "rng_state.pth")  # names of folders; random states of more than torch


def _timeless(path: Path) -> bytes:
    if path.suffix == ".png":
        return path.read_bytes()[-8:]  # the chunk that ends it
    if path.name in _OF_ITS_PLACE:
        return b"" if path.stat().st_size else b"empty"
    if path.name == "comparison.md":
        return re.sub(r" *\d+\.\d\d +\|$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).encode()
    if path.suffix == ".json":
        text = path.read_text(encoding="utf-8")
        json.loads(text)  # whole, or it is an error
        return _SECONDS.sub("", text).encode()
    return path.read_bytes()


def state(folder: Path) -> dict[str, str] | str:
    """The digests of a folder; in words, why there are none."""
    try:  # a name that is too long is an error where it is looked for
        return digests(folder) if folder.exists() else "absent"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


__all__ = ["COMMANDS", "Command", "World", "cli", "digests", "state"]
