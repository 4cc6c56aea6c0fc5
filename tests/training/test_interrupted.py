"""A training that is killed at any point: what lies on the disk is whole, and the next run ends as if nothing had been.

One run is watched, and its folder copied before each operation on files: each copy is what a kill at that moment leaves.
A copy in which a file has just been written is taken a second time with half of that file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import Trainer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from typer.testing import CliRunner

from hf_learngene import AutoLearngene, LearngeneTrainer, errors
from hf_learngene.cli import app
from hf_learngene.training import CheckpointSafeTrainer
from hf_learngene.training.checkpoints import PARTIAL
from hf_learngene.training.resuming import checkpoints_of, fault_of, last_whole_checkpoint, step_of
from hf_learngene.training.work_folder import WorkFolder
from testing.families import tiny_model
from testing.saving import tokenizer
from testing.training import NO_DROPOUT, Images, trainer_of


# ---- what a kill leaves


class Watcher:
    """Copies a folder before each operation on its files. Audit hooks cannot be taken out again, so there is one."""

    EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")

    def __init__(self) -> None:
        self.root: Path | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, given: tuple) -> None:
        if self.root is None or event not in self.EVENTS:
            return
        path = os.fsdecode(given[0]) if isinstance(given[0], (str, bytes, os.PathLike)) else ""
        # what is named relative to an open folder is what shutil.rmtree deletes
        if path.startswith(str(self.root)) or (event in ("os.remove", "os.rmdir") and not os.path.isabs(path)):
            self.take()

    def take(self) -> None:
        root, self.root = self.root, None
        state = tree(root)
        if not self.states or state != self.states[-1]:
            self.states.append(state)
        self.root = root

    def watch(self, root: Path, run) -> list[dict[str, bytes | None]]:
        """Every state of `root` that `run` passes through, each as path -> content (None: a folder)."""
        self.root, self.states = root, []
        try:
            run()
            self.take()
        finally:
            self.root = None
        half = []
        for before, after in zip(self.states, self.states[1:], strict=False):
            # a rename is never half done
            new = [name for name, content in after.items() if content and content not in before.values()]
            half += [{**after, name: after[name][: len(after[name]) // 2]} for name in new]
        return [*self.states, *half]


watcher = Watcher()


def tree(root: Path) -> dict[str, bytes | None]:
    found = {}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = path.read_bytes() if path.is_file() else None
    return found


def restore(state: dict[str, bytes | None], root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name, content in state.items():
        if content is None:
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).write_bytes(content)
    return root


def test_the_watcher_sees_what_a_kill_would_leave(tmp_path):
    """Or all tests below would prove nothing."""

    def run():
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_text("1234")
        os.replace(tmp_path / "a" / "x", tmp_path / "y")
        shutil.rmtree(tmp_path / "a")

    states = watcher.watch(tmp_path, run)
    assert states == [{}, {"a": None}, {"a": None, "a/x": b"1234"}, {"a": None, "y": b"1234"}, {"y": b"1234"},
                      {"a": None, "a/x": b"12"}]  # fmt: skip


# ---- the trainers


def plain_trainer(cls, folder, **arguments):
    from transformers import TrainingArguments

    torch.manual_seed(0)
    model = tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, dtype=torch.float32)
    given = {"max_steps": 3, "save_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none",
             "disable_tqdm": True, **arguments}  # fmt: skip
    return cls(model, TrainingArguments(str(folder), **given), train_dataset=Images(), eval_dataset=Images())


def learngene_trainer(folder, **arguments):
    """With projections, which a checkpoint must hold too."""
    given = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "distillation": "features"}
    return trainer_of("vit", "wave", folder, **{**given, **arguments})


MAKE = {
    "CheckpointSafeTrainer": lambda folder, **more: plain_trainer(CheckpointSafeTrainer, folder, **more),
    "LearngeneTrainer": learngene_trainer,
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_checkpoint_that_has_its_name_is_whole(make, tmp_path):
    trainer = make(tmp_path / "run", save_total_limit=1)
    states = watcher.watch(tmp_path / "run", trainer.train)
    whole = tree(tmp_path / "run")
    assert len(states) > 30
    files = {n.partition("/")[2] for n in whole if n.startswith("checkpoint-3/")}
    last = 0
    for state in states:
        folder = restore(state, tmp_path / "seen")
        kept = last_whole_checkpoint(folder)
        newest = max([step_of(n) for n in state if n.startswith("checkpoint-") and "/" not in n], default=0)
        if kept is None:
            assert newest == 0
            continue
        assert step_of(kept) == newest  # the newest is never half, even while older ones are being deleted
        assert {p.name for p in kept.iterdir()} == files
        last = max(last, newest)
    assert last == 3
    assert not (tmp_path / "run" / PARTIAL).exists()


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_what_a_dead_run_left_is_swept_and_replaced(make, tmp_path):
    make(tmp_path).train()
    (tmp_path / PARTIAL / "checkpoint-3").mkdir(parents=True)
    (tmp_path / PARTIAL / "checkpoint-3" / "model.safetensors").write_bytes(b"half")
    whole = {n: c for n, c in tree(tmp_path).items() if n.endswith(".safetensors") and n.startswith("checkpoint-3")}
    (tmp_path / "checkpoint-3" / "model.safetensors").write_bytes(b"half")
    make(tmp_path).train(resume_from_checkpoint=True)
    for name, content in whole.items():
        assert (tmp_path / name).read_bytes() == content, name
    assert not (tmp_path / PARTIAL).exists()


@pytest.mark.parametrize("cls", [Trainer, CheckpointSafeTrainer])
@pytest.mark.parametrize("limit", [1, 2, None])
def test_old_checkpoints_go_and_the_best_one_stays_as_in_trainer(cls, limit, tmp_path):
    """The same expectations of both, so that the first says what the second must do."""
    best = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }
    rates = {"learning_rate": 1.0, "lr_scheduler_type": "constant"}  # the first step is the best
    trainer = plain_trainer(cls, tmp_path, save_total_limit=limit, **best, **rates)
    trainer.train()
    kept = {1: ["checkpoint-1"], 2: ["checkpoint-1", "checkpoint-3"]}.get(
        limit, ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    )
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == kept
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    for checkpoint in checkpoints_of(tmp_path):
        assert (
            f'"best_model_checkpoint": "{tmp_path / "checkpoint-1"}"'
            in (checkpoint / "trainer_state.json").read_text()
        )


def test_an_error_while_a_checkpoint_is_written_leaves_none(tmp_path, monkeypatch):
    trainer = plain_trainer(CheckpointSafeTrainer, tmp_path)
    monkeypatch.setattr(trainer, "_save_rng_state", lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        trainer.train()
    assert list(tmp_path.iterdir()) == []


def test_an_upload_starts_from_where_the_checkpoint_stays(tmp_path, monkeypatch):
    trainer = plain_trainer(CheckpointSafeTrainer, tmp_path)
    trainer.args.push_to_hub = True
    pushed = []
    monkeypatch.setattr(
        Trainer, "_push_from_checkpoint", lambda self, folder: pushed.append((folder, fault_of(folder)))
    )
    trainer.create_optimizer_and_scheduler(1)
    trainer._save_checkpoint(trainer.model, trial=None)
    assert pushed == [(str(tmp_path / "checkpoint-0"), None)]


# ---- checkpoints of a plain Trainer


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    plain_trainer(Trainer, folder, max_steps=2).train()
    return folder


FILES = ["config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json",
         "training_args.bin"]  # fmt: skip


def test_these_are_all_files_of_a_checkpoint(written):
    assert sorted(p.name for p in (written / "checkpoint-2").iterdir()) == FILES
    assert [p.name for p in checkpoints_of(written)] == ["checkpoint-2", "checkpoint-1"]
    assert last_whole_checkpoint(written) == written / "checkpoint-2"


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_cut_off_anywhere_is_seen(file, written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoint-2" / file
    content = path.read_bytes()
    for kept in (0, 1, 2, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:kept])
        assert fault_of(path.parent) == f"{file} is cut off", kept
        assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize(
    ("gone", "fault"),
    [("trainer_state.json", "trainer_state.json is missing"), ("model.safetensors", "the weights are missing")],
)
def test_what_was_not_written_yet_is_missed(gone, fault, written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoint-2" / gone).unlink()
    with pytest.raises(errors.ResumeError, match=rf"checkpoint-2 is not whole \({fault}\).* Resume with checkpoint-1"):
        plain_trainer(CheckpointSafeTrainer, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    shutil.rmtree(tmp_path / "checkpoint-1")
    with pytest.raises(errors.ResumeError, match=rf"no whole checkpoint \(checkpoint-2: {fault}\)"):
        plain_trainer(CheckpointSafeTrainer, tmp_path).train(resume_from_checkpoint=True)


def test_a_shard_that_is_missing_is_missed(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoint-2"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(str({"weight_map": weights}).replace("'", '"'))
    assert fault_of(folder) == "model-00002-of-00002.safetensors is missing"


# ---- build


NAMES = ["ant", "bee", "cat", "dog", "elk"]


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
