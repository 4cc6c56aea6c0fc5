"""A training that is killed at any point: what lies on the disk is whole, and the next run ends as if nothing had been."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from transformers import Trainer

from hf_learngene import errors
from hf_learngene.training import CheckpointSafeTrainer
from hf_learngene.training.checkpoints import PARTIAL
from hf_learngene.training.resuming import checkpoints_of, fault_of, last_whole_checkpoint, step_of
from testing.killed import restore, tree, watcher
from testing.training import plain_trainer, trainer_of


# ---- what a kill leaves


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


def learngene_trainer(folder, **arguments):
    """With projections, which a checkpoint must hold too."""
    given = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "distillation": "features"}
    return trainer_of("vit", "wave", folder, **{**given, **arguments})


def nested_trainer(folder, **arguments):
    """Of a core and the sizes inside it."""
    given = {
        "max_steps": 3,
        "save_strategy": "steps",
        "save_steps": 1,
        "sandwich_weight": 0.5,
        "sandwich_widths": [16, 24],
    }
    return trainer_of("vit", "condensed", folder, **{**given, **arguments})


MAKE = {
    "CheckpointSafeTrainer": lambda folder, **more: plain_trainer(CheckpointSafeTrainer, folder, **more),
    "LearngeneTrainer": learngene_trainer,
    "LearngeneTrainer, condensed": nested_trainer,
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
        assert step_of(kept) == newest
        for checkpoint in checkpoints_of(folder):  # none is half, even while older ones are being deleted
            assert {p.name for p in checkpoint.iterdir()} == files
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


def test_a_checkpoint_that_cannot_be_deleted_is_tried_again(tmp_path, monkeypatch):
    """A file that another process holds, for a moment or for good: what has the name of a checkpoint is whole all the same."""
    unlink = os.unlink
    for number, times in enumerate((1, 1000)):
        failures = iter(range(times))

        def held(path, *given, failures=failures, **named):
            if os.fspath(path).endswith("trainer_state.json") and next(failures, None) is not None:
                raise PermissionError(errno.EACCES, "is held", path)
            unlink(path, *given, **named)

        run = tmp_path / str(number)
        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", held)
            plain_trainer(CheckpointSafeTrainer, run, save_total_limit=1).train()
        assert [path.name for path in checkpoints_of(run)] == ["checkpoint-3"]
        assert (run / PARTIAL).exists() == (times > 1)
    plain_trainer(CheckpointSafeTrainer, run, save_total_limit=1).train(resume_from_checkpoint=True)
    assert not (run / PARTIAL).exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(errors.OutputError, match="run` could not be written"):
        plain_trainer(CheckpointSafeTrainer, tmp_path / "file" / "run")


def test_an_error_while_a_checkpoint_is_written_leaves_none(tmp_path, monkeypatch):
    trainer = plain_trainer(CheckpointSafeTrainer, tmp_path)
    monkeypatch.setattr(trainer, "_save_rng_state", lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        trainer.train()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "too little space for .*checkpoint-2"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
            "checkpoint-2` could not be",
        ),
        (RuntimeError("File /x/optimizer.pt cannot be opened."), "checkpoint-2` could not be written: File"),
    ],
)
def test_a_disk_that_does_not_take_a_checkpoint_is_told(tmp_path, monkeypatch, error, says):
    def fail(self, folder):
        if self.state.global_step == 2:
            raise error

    monkeypatch.setattr(CheckpointSafeTrainer, "_save_rng_state", fail)
    with pytest.raises(errors.OutputError, match=f"{says}.*The checkpoints before it are whole"):
        plain_trainer(CheckpointSafeTrainer, tmp_path).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_an_error_of_the_training_itself_stays_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(
        CheckpointSafeTrainer, "_save_rng_state", lambda *given: (_ for _ in ()).throw(RuntimeError("other"))
    )
    with pytest.raises(RuntimeError, match="^other$"):
        plain_trainer(CheckpointSafeTrainer, tmp_path).train()


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
