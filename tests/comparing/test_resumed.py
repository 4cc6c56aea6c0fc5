"""`compare` in a folder that holds some of it: what is done is not done again, and another comparison is not mixed in."""

from __future__ import annotations

import errno

import pytest
from transformers import TrainingArguments, default_data_collator

from hf_learngene.comparing import Comparison, fingerprint, folder, measuring, run
from hf_learngene.errors import CheckpointError, OutputError, ResumeError, UnknownOptionError
from testing.comparing import FINE, FIRST, Drawing, fine, small, whole
from testing.killed import restore, watcher
from testing.training import Images, teacher_of


def numbers(comparison):
    """Everything but how long it took."""
    found = comparison.to_dict()
    return found | {"rows": [{k: v for k, v in row.items() if k != "seconds"} for row in found["rows"]]}


def test_what_is_done_is_not_done_again(finished, tmp_path, resizes, monkeypatch):
    found, _ = finished
    evaluated = measuring._Watch.on_evaluate
    count = [0]

    def stop(self, *args, **kwargs):
        count[0] += 1
        if count[0] == 3 * 3 + 2:  # in the middle of the fourth job
            raise KeyboardInterrupt
        return evaluated(self, *args, **kwargs)

    monkeypatch.setattr(measuring._Watch, "on_evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        whole(tmp_path)
    assert len(resizes) == 4
    done = {p.name: p.read_bytes() for p in (tmp_path / "jobs").glob("*seed*.json")}
    assert len(done) == 3
    with pytest.raises(CheckpointError, match="not finished: run it again"):
        Comparison.load(tmp_path)
    monkeypatch.setattr(run.Task, "measure", lambda *args: pytest.fail("the source was measured twice"))
    again = whole(tmp_path)
    assert len(resizes) == 4 + 10 - 3
    assert numbers(again) == numbers(found)
    assert all((tmp_path / "jobs" / name).read_bytes() == content for name, content in done.items())
    assert whole(tmp_path) == again
    assert len(resizes) == 11
    assert {p.name for p in (tmp_path / "jobs").iterdir() if p.name not in done} >= {"settings.json", "source.json"}


def test_two_runs_at_once_are_not_mixed(tmp_path, resizes):
    """The later one took what the earlier had not begun to train for a mistake, and both wrote."""
    place = folder.Folder(tmp_path / "out")
    with place.held(), pytest.raises(OutputError, match="Another run compares into .*out"):
        whole(tmp_path / "out")
    assert not resizes
    assert not (tmp_path / "out").exists()  # nothing came of it
    with place.held():
        place.jobs.mkdir()
    assert place.jobs.is_dir()


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    folder.write_text(tmp_path / "x", "before")
    monkeypatch.setattr(folder.os, "fsync", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        folder.write_text(tmp_path / "x", "after")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "before")]


def test_a_disk_that_does_not_take_a_file_is_told(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    small(tmp_path)
    monkeypatch.setattr(folder.os, "fsync", full)
    with pytest.raises(OutputError, match=r"too little space for .*What is done is kept: compare again"):
        small(tmp_path, steps=3, overwrite=True)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("place", ["", "jobs"])
def test_halves_that_a_killed_run_left_are_no_hindrance(tmp_path, place):
    litter = tmp_path / place / ".settings.json.0123abcd.partial"
    litter.parent.mkdir(exist_ok=True)
    litter.write_text("half")
    (tmp_path / ".mine.partial").write_text("not ours")
    small(tmp_path)
    assert not litter.exists()
    assert (tmp_path / ".mine.partial").exists()


def test_starting_over_deletes_the_settings_last(tmp_path):
    """Whatever is left in between, is known for a comparison."""
    small(tmp_path)
    states = watcher.watch(tmp_path, lambda: small(tmp_path, steps=3, overwrite=True))
    for number, state in enumerate(states):
        seen = restore(state, tmp_path.parent / f"seen-{number % 2}")
        kept = folder.Folder(seen)
        kept.open({"steps": 3}, overwrite=True)


def test_a_picture_is_whole_or_as_it_was(tmp_path):
    found = small(tmp_path)
    states = watcher.watch(tmp_path, lambda: found.plot(tmp_path / "comparison.png"))
    assert len(states) > 2
    assert all(state["comparison.png"].endswith(b"IEND\xaeB`\x82") for state in states)


def test_a_job_half_written_is_done_again(tmp_path, resizes):
    before = small(tmp_path)
    job = next((tmp_path / "jobs").glob("*seed0*.json"))
    job.write_text(job.read_text()[:20])
    assert numbers(small(tmp_path)) == numbers(before)
    assert len(resizes) == 2


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    small(folder, methods={"m": FIRST}, args=TrainingArguments("x", weight_decay=0.1))
    return folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 4}, "steps: 2 there, 4 here"),
        ({"seeds": [1]}, r"seeds: \[0\] there, \[1\] here"),
        ({"batch_size": 4}, "batch_size: 8 there, 4 here"),
        ({"learning_rate": 0.5}, r"learning_rate.m: 0.01 there, 0.5 here"),
        ({"methods": {"m": "weight_selection"}}, "methods.m.element_selection: 'consecutive' there, 'uniform' here"),
        ({"methods": {"m": FIRST, "n": "random"}}, "methods.n.method: none there, 'random' here"),
        ({"sizes": [{"hidden_size": 8}]}, "sizes.hidden_size=16.hidden_size: 16 there, none here"),
        ({"sizes": {"hidden_size=16": {"hidden_size": 8}}}, "sizes.hidden_size=16.hidden_size: 16 there, 8 here"),
        ({"train": Images(31)}, "train_dataset: "),
        ({"held": Images(23)}, "eval_dataset: "),
        ({"data_collator": default_data_collator}, "data_collator: None there, 'default_data_collator' here"),
        (FINE, "compute_metrics: None there, 'fine' here; metric: 'accuracy' there, 'score' here"),
        ({"args": None}, "args.weight_decay: 0.1 there, none here"),
        ({"source": teacher_of("vit", seed=8)}, "source.digest: "),
    ],
)
def test_another_comparison_in_the_folder_is_refused(done, changed, message, untrained):
    given = {"methods": {"m": FIRST}, "args": TrainingArguments("x", weight_decay=0.1), **changed}
    before = {p: p.read_bytes() for p in done.rglob("*.json")}
    with pytest.raises(ResumeError, match=f"with other settings .*{message}.*overwrite=True, --overwrite"):
        small(done, **given)
    assert {p: p.read_bytes() for p in done.rglob("*.json")} == before


def test_overwrite_starts_over(tmp_path, resizes):
    small(tmp_path)
    again = small(tmp_path, seeds=[1], overwrite=True)
    assert [call["seed"] for call in resizes] == [0, 1]
    assert again.settings["seeds"] == [1]
    small(tmp_path, seeds=[1], overwrite=True)
    assert len(resizes) == 3
    assert len(list((tmp_path / "jobs").glob("*seed*.json"))) == 1


def test_speed_of_reading_and_other_machines_change_no_setting(tmp_path, resizes):
    small(tmp_path, args=TrainingArguments("a"))
    small(tmp_path, args=TrainingArguments("b", dataloader_num_workers=1, logging_steps=3))
    assert len(resizes) == 1


def test_a_mistake_before_the_first_job_is_mended_in_place(tmp_path):
    with pytest.raises(
        UnknownOptionError, match="compute_metrics gives score; metric was 'scor'. Did you mean 'score'"
    ):
        small(tmp_path, compute_metrics=fine, metric="scor")
    assert small(tmp_path, **FINE).metric == "score"


def test_what_lies_there_of_others_is_left_alone(tmp_path, untrained):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else"):
        small(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="is a file"):
        small(tmp_path / "jobs" / "mine.txt")
    assert (tmp_path / "jobs" / "mine.txt").read_text() == "mine"


def test_digests_of_data():
    assert fingerprint.of_data(Drawing()) == fingerprint.of_data(Drawing())
    assert fingerprint.of_data(Drawing()) != fingerprint.of_data(Images())
    relabelled = Images()
    relabelled.labels[0] += 1
    assert fingerprint.of_data(Images()) == fingerprint.of_data(Images()) != fingerprint.of_data(relabelled)
