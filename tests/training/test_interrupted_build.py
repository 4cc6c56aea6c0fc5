"""A `build` that is killed or interrupted at any point ends, on the next run, as if nothing had been; one runs at a time."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from typer.testing import CliRunner

from hf_learngene import AutoLearngene, LearngeneTrainer, errors
from hf_learngene.cli import app
from hf_learngene.training.resuming import checkpoints_of, fault_of, step_of
from hf_learngene.training.work_folder import WorkFolder
from testing.families import tiny_model
from testing.killed import restore, tree, watcher
from testing.saving import tokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Teachers with what prepares their inputs, and data for both."""
    folder = tmp_path_factory.mktemp("world")
    tiny_model("vit", "ViTForImageClassification", dtype=torch.float32).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / "vit")
    tiny_model("bert", "BertForMaskedLM", dtype=torch.float32).save_pretrained(folder / "bert")  # with dropout
    tokenizer().save_pretrained(folder / "bert")
    images = [PILImage.new("RGB", (14, 14), (i * 15, 40, 250 - i * 15)) for i in range(16)]
    features = Features({"image": Image(), "label": ClassLabel(names=[f"LABEL_{i}" for i in range(5)])})
    Dataset.from_dict({"image": images, "label": [i % 5 for i in range(16)]}, features=features).to_parquet(
        folder / "images.parquet"
    )
    texts = [" ".join(f"word{(i * j) % 50}" for j in range(1, 12)) for i in range(1, 17)]
    Dataset.from_dict({"text": texts}).to_json(folder / "texts.jsonl")
    return folder


def build(world, folder, *more, data="images.parquet", teacher="vit", steps=2):
    given = [world / teacher, folder / "out", "--data", world / data, "--learngene-type", "tleg", "--steps", steps,
             "--batch-size", 4, *more]  # fmt: skip
    return CliRunner().invoke(app, ["build", *map(str, given)])


def weights_of(folder):
    return AutoLearngene.from_pretrained(folder / "out").state_dict()


def is_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-6, msg=name)


def restored_build(state, root, inode):
    restore(state, root)
    note = root / ".out.training" / "result.json"
    if note.exists() and (root / "out").exists():  # a copy is another folder
        note.write_text(note.read_text().replace(str(inode), str(os.stat(root / "out").st_ino)))
    return root


def test_a_build_that_was_killed_anywhere_ends_as_one_that_was_not(world, tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    states = watcher.watch(folder, lambda: build(world, folder))
    assert sorted(p.name for p in folder.iterdir()) == ["out"]
    assert len(states) > 60
    # What the next run goes on from is all that its end depends on, so that one run for each is enough.
    inode = os.stat(folder / "out").st_ino
    begun = {}
    for state in states:
        seen = restored_build(state, tmp_path / "seen", inode)
        with WorkFolder(seen / "out").held():
            left = {
                n: c
                for n, c in tree(seen).items()
                if n.startswith((".out.training/checkpoint", ".out.training/asked", "out/"))
            }
        begun[hashlib.sha256(repr(left).encode()).hexdigest()] = state
    steps = set()
    for state in begun.values():
        seen = restored_build(state, tmp_path / "seen", inode)
        whole = (seen / "out").exists()
        steps.add(max([step_of(p) for p in checkpoints_of(seen / ".out.training") if fault_of(p) is None], default=0))
        done = build(world, seen)
        assert ("exists already" in done.output) if whole else (done.exit_code == 0), done.output
        assert sorted(p.name for p in seen.iterdir()) == ["out"]
        is_same(weights_of(folder), weights_of(seen))
    assert steps == {0, 1, 2}


def stop_at(monkeypatch, step, error):
    whole = LearngeneTrainer.training_step

    def training_step(self, *given, **named):
        if self.state.global_step == step:
            raise error
        return whole(self, *given, **named)

    monkeypatch.setattr(LearngeneTrainer, "training_step", training_step)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(("teacher", "data"), [("vit", "images.parquet"), ("bert", "texts.jsonl")])
def test_an_interrupted_build_says_how_to_go_on_and_does(teacher, data, error, world, tmp_path, monkeypatch):
    """BERT has dropout and masks: the random numbers go on where they were."""
    given = {"teacher": teacher, "data": data, "steps": 3}
    assert build(world, tmp_path / "whole", **given).exit_code == 0
    with monkeypatch.context() as patched:
        stop_at(patched, 2, error)
        stopped = build(world, tmp_path / "cut", **given)
    assert stopped.exit_code not in (0, 2)
    assert "Stopped. The same command resumes at step 2 of 3." in stopped.output
    again = build(world, tmp_path / "cut", **given)
    assert again.exit_code == 0, again.output
    assert "Resuming at step 2 of 3." in again.output
    is_same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["out"]


def test_a_build_that_has_no_checkpoint_leaves_nothing(world, tmp_path, monkeypatch):
    stop_at(monkeypatch, 0, KeyboardInterrupt())
    stopped = build(world, tmp_path / "a" / "b")
    assert "Stopped. The same command begins anew, no checkpoint was written yet." in stopped.output
    assert list(tmp_path.iterdir()) == []


def test_overwriting_is_resumed_too(world, tmp_path, monkeypatch):
    assert build(world, tmp_path, steps=3).exit_code == 0
    before = weights_of(tmp_path)
    with monkeypatch.context() as patched:
        stop_at(patched, 2, KeyboardInterrupt())
        build(world, tmp_path, "--overwrite", "--learning-rate", 0.1, steps=3)
    is_same(before, weights_of(tmp_path))
    again = build(world, tmp_path, "--overwrite", "--learning-rate", 0.1, steps=3)
    assert "Resuming at step 2 of 3." in again.output
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


# ---- one run at a time


def test_two_builds_of_one_output_do_not_run_at_once(world, tmp_path):
    with WorkFolder(tmp_path / "out").held():
        refused = build(world, tmp_path)
        assert refused.exit_code == 2
        assert "Another run is making" in " ".join(refused.output.split())
    assert list(tmp_path.iterdir()) == []
    assert build(world, tmp_path).exit_code == 0


def test_the_lock_dies_with_its_run(tmp_path):
    work = WorkFolder(tmp_path / "out")
    die = "import os, sys; from filelock import FileLock; FileLock(sys.argv[1]).acquire(); os._exit(9)"
    lock = tmp_path / ".out.training.lock"
    assert subprocess.run([sys.executable, "-c", die, str(lock)], check=False).returncode == 9
    assert lock.exists()
    with work.held():
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_nothing_vouches_for_is_not_gone_on_with(tmp_path, written):
    work = WorkFolder(tmp_path / "out")
    for record in (None, "", "[]", '{"steps"'):
        shutil.copytree(written, work.path)
        if record is not None:
            (work.path / "asked.json").write_text(record)
        with work.held():
            assert work.begin({"steps": "2"}, start_over=False) is None
            assert [p.name for p in work.path.iterdir()] == ["asked.json"]


def test_other_settings_are_refused_while_there_is_a_checkpoint(tmp_path, written):
    work = WorkFolder(tmp_path / "out")
    with work.held():
        assert work.begin({"steps": "2", "rate": "1"}, start_over=False) is None
        assert work.begin({"steps": "2", "rate": "2"}, start_over=False) is None  # nothing to lose yet
        shutil.copytree(written / "checkpoint-2", work.path / "checkpoint-2")
        with pytest.raises(errors.ResumeError, match="rate: 2 then, 3 now"):
            work.begin({"steps": "2", "rate": "3"}, start_over=False)
        for over in (False, True):  # --overwrite is no reason to lose what the same run has done
            assert work.begin({"steps": "2", "rate": "2"}, start_over=over) == work.path / "checkpoint-2"
        assert work.begin({"steps": "2", "rate": "3"}, start_over=True) is None
