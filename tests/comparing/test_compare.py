"""`compare`: every start is trained alike, what is done is not done again, and the numbers mean what they say."""

from __future__ import annotations

import copy
import json

import datasets
import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments, default_data_collator

from hf_learngene import compare, resize
from hf_learngene.comparing import Comparison, fingerprint, folder, measuring, run
from hf_learngene.errors import (
    CalibrationError,
    CheckpointError,
    OutputError,
    ResumeError,
    UnknownOptionError,
)
from hf_learngene.methods import WeightSelection
from testing.comparing import EVAL, FINE, FIRST, SETUP, SMALL, TRAIN, fine, forbid_training, small
from testing.training import Images, teacher_of


def numbers(comparison):
    """Everything but how long it took."""
    found = comparison.to_dict()
    return found | {"rows": [{k: v for k, v in row.items() if k != "seconds"} for row in found["rows"]]}


def whole(folder):
    methods = {"random": "random", "every": WeightSelection(), "first": FIRST, "lemon": "lemon"}
    return compare(teacher_of("vit"), [SMALL, {"num_hidden_layers": 4}], TRAIN, EVAL, methods=methods, output_dir=folder,
                   **SETUP, **FINE)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two sizes by four methods with two seeds; five of the eight cells can be made."""
    folder = tmp_path_factory.mktemp("finished")
    return whole(folder), folder


@pytest.fixture
def resizes(monkeypatch):
    """What `resize` was called with."""
    calls = []

    def recorded(model, **kwargs):
        calls.append(kwargs)
        return resize(model, **kwargs)

    monkeypatch.setattr(run, "resize", recorded)
    return calls


@pytest.fixture
def untrained(monkeypatch):
    """Fails on any training or measuring."""
    forbid_training(monkeypatch)


# ---- what comes out


def test_every_cell_has_its_numbers(finished):
    found, folder = finished
    cells = {(r.size, r.method): r for r in found.rows}
    assert len(cells) == 8
    wide, deep = "hidden_size=16", "num_hidden_layers=4"
    made = {(wide, "random"), (wide, "every"), (wide, "first"), (deep, "random"), (deep, "lemon")}
    assert {name for name, row in cells.items() if row.cannot is None} == made
    for name in made:
        row = cells[name]
        assert row.steps == (0, 2, 3)
        assert np.shape(row.curves) == (2, 3)
        assert all(s > 0 for s in row.seconds)
        target = resize(teacher_of("vit"), method="random", **(SMALL if name[0] == wide else {"num_hidden_layers": 4}))
        assert row.parameters == target.num_parameters()
    assert "it only grows" in cells[wide, "lemon"].cannot
    assert "cannot grow" in cells[deep, "first"].cannot
    assert cells[wide, "every"].curves != cells[wide, "first"].curves
    assert len(list((folder / "jobs").glob("*seed*.json"))) == 2 * len(made)


def test_what_is_left_behind_says_the_same(finished):
    found, folder = finished
    assert Comparison.load(folder) == found
    assert json.loads((folder / "comparison.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    page, text = (folder / "comparison.md").read_text(), str(found)
    row = found.row("hidden_size=16", "first")
    for shown in (page, text):
        assert f"{row.before:.3f}" in shown
        assert f"{row.after:.3f} ({min(c[-1] for c in row.curves):.3f}–" in shown
        assert "lemon cannot make hidden_size=16: lemon keeps the function" in shown
    assert f"| {row.mean[1]:.3f} (" in page
    assert max(map(len, text.split("\n\n")[1].splitlines())) <= 120
    assert not [p for p in folder.rglob("*") if p.name.endswith(".partial")]


# ---- the same training for every start


def by_hand(model, data):
    with torch.no_grad():
        logits = torch.stack([model(pixel_values=data[i]["pixel_values"][None]).logits[0] for i in range(len(data))])
    labels = torch.stack([torch.tensor(data[i]["labels"]) for i in range(len(data))])
    return (logits.argmax(-1) == labels).float().mean().item(), logits.numpy().std()


def test_before_the_first_step_it_is_what_resize_gives(tmp_path):
    source = teacher_of("vit").to(torch.bfloat16).train()
    state = {k: v.clone() for k, v in source.state_dict().items()}
    methods = ["random", "weight_selection", "calibrated"]
    calibration = [TRAIN[i] for i in range(16)]
    coarse, exact = (
        small(tmp_path / name, source, methods=methods, calibration=calibration, seeds=[3], **given)
        for name, given in (("coarse", {}), ("fine", FINE))
    )
    for method in methods:
        own = {"calibration": calibration} if method == "calibrated" else {}
        made = resize(copy.deepcopy(source).float().eval(), method=method, seed=3, **own, **SMALL)
        accuracy, score = by_hand(made, EVAL)
        assert coarse.row("hidden_size=16", method).before == pytest.approx(accuracy)
        assert exact.row("hidden_size=16", method).before == pytest.approx(score, rel=1e-4)
    assert coarse.source_metric == pytest.approx(by_hand(copy.deepcopy(source).float().eval(), EVAL)[0])
    assert source.training
    assert all(v.dtype == torch.bfloat16 and torch.equal(v, state[k]) for k, v in source.state_dict().items())


ORDERS: list[tuple] = []


def noted(examples):
    ORDERS.append(tuple(e["labels"] for e in examples))
    return default_data_collator(examples)


def test_a_seed_gives_one_curve_and_one_order_of_examples(tmp_path):
    ORDERS.clear()
    both = {"a": "random", "b": "random", "c": "weight_selection"}
    found = small(tmp_path, methods=both, seeds=[0, 1], data_collator=noted, steps=4, **FINE)
    first, again, other = (found.row("hidden_size=16", m) for m in both)
    assert first.curves == again.curves
    assert first.curves != other.curves
    assert first.curves[0] != first.curves[1]
    held = [tuple(EVAL[i]["labels"] for i in range(s, s + 8)) for s in (0, 8, 16)]
    trained = [order for order in ORDERS if order not in held]
    jobs = [trained[i : i + 4] for i in range(0, len(trained), 4)]
    assert len(jobs) == 6
    assert jobs[0] == jobs[1] == jobs[2] != jobs[3] == jobs[4] == jobs[5]


class Noisy:
    """A collator that draws, and remembers how far it has drawn, as one that masks tokens does."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, examples):
        batch = default_data_collator(examples)
        noise = torch.randn(batch["pixel_values"].shape, generator=self.generator)
        return {**batch, "pixel_values": batch["pixel_values"] + noise}


class Drawing(Images):
    """Images with noise that is drawn anew at each reading, as random crops are."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return {**example, "pixel_values": example["pixel_values"] + torch.randn(3, 12, 12)}


@pytest.mark.parametrize("given", [{"data_collator": Noisy()}, {"train": Drawing()}], ids=["collator", "data"])
def test_what_draws_starts_anew_for_each_job(tmp_path, given):
    found = small(tmp_path, methods={"a": "calibrated", "b": "calibrated"}, **given, **FINE)
    assert found.rows[0].curves == found.rows[1].curves


def test_arguments_of_the_training(tmp_path, monkeypatch):
    seen = []

    class Recorded(Trainer):
        def train(self, *args, **kwargs):
            seen.append((self.args, next(self.model.parameters()).dtype))
            return super().train(*args, **kwargs)

    monkeypatch.setattr(measuring, "Trainer", Recorded)
    rates = {"random": 1e-3, "weight_selection": 1e-4}
    given = TrainingArguments(str(tmp_path / "other"), weight_decay=0.3, max_steps=99, save_strategy="steps", seed=77)
    small(
        tmp_path / "out",
        teacher_of("vit").half(),
        methods=list(rates),
        learning_rate=rates,
        seeds=[5],
        steps=11,
        args=given,
    )
    assert not (tmp_path / "other").exists()
    assert [a.learning_rate for a, _ in seen] == [1e-3, 1e-4]
    for args, dtype in seen:
        assert dtype == torch.float32
        assert (args.seed, args.data_seed, args.max_steps, args.weight_decay) == (5, 5, 11, 0.3)
        assert (args.save_strategy, args.report_to, args.warmup_steps, args.remove_unused_columns) == (
            "no",
            [],
            2,
            False,
        )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "comparison.json", "comparison.md", "comparison.png", "jobs",
    ]  # fmt: skip


def test_data_sets_of_every_kind(tmp_path):
    rows = [{k: np.asarray(v).tolist() for k, v in TRAIN[i].items()} | {"name": "x"} for i in range(16)]
    plain = datasets.Dataset.from_list(rows)
    moved = plain.rename_column("pixel_values", "raw").with_transform(
        lambda batch: {"pixel_values": [torch.tensor(v) for v in batch["raw"]], "labels": batch["labels"]}
    )
    listed = [{k: v for k, v in row.items() if k != "name"} for row in rows]
    curves = [
        small(tmp_path / str(i), methods=["calibrated"], train=data, held=data, calibration_size=16, **FINE)
        .rows[0]
        .curves
        for i, data in enumerate((plain, moved, plain.with_format("torch"), listed))
    ]
    assert all(c == curves[0] for c in curves)


def test_calibration_examples_are_drawn_by_the_seed(tmp_path, resizes):
    methods = {"none": "random", "a": "calibrated", "b": {"method": "calibrated", "ridge": 0.1}}
    found = small(tmp_path, methods=methods, seeds=[0, 1], calibration_size=12)
    assert ["calibration" in call for call in resizes] == [False, True, True] * 2
    drawn = [[TRAIN.pixels.flatten(1).eq(e["pixel_values"].flatten()).all(1).nonzero().item() for e in call["calibration"]]
             for call in resizes if "calibration" in call]  # fmt: skip
    assert [len(set(d)) for d in drawn] == [12] * 4
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]
    assert found.settings["calibration_size"] == 12


def test_a_budget_is_one_size_for_every_method(tmp_path, resizes):
    small(tmp_path, sizes=[{"params": 0.5, "n_layers": 2}], methods=["random", "calibrated"])
    sizes = [
        {k: call[k] for k in ("hidden_size", "n_layers", "num_hidden_layers", "params") if k in call}
        for call in resizes
    ]
    assert sizes[0] == sizes[1]
    assert sizes[0].keys() == {"hidden_size", "n_layers"}


# ---- resuming


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


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    folder.write_text(tmp_path / "x", "before")
    monkeypatch.setattr(folder.os, "fsync", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        folder.write_text(tmp_path / "x", "after")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "before")]


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
        ({"data_collator": noted}, "data_collator: None there, 'noted' here"),
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


# ---- on the way


def test_a_method_that_fails_on_its_examples_costs_its_cell_alone(tmp_path, monkeypatch):
    def failing(model, method, seed, **kwargs):
        if method.name == "calibrated" and seed == 1:
            raise CalibrationError("too\nfew")
        return resize(model, method=method, seed=seed, **kwargs)

    monkeypatch.setattr(run, "resize", failing)
    found = small(tmp_path, methods=["calibrated", "random"], seeds=[0, 1, 2])
    assert [row.cannot for row in found.rows] == ["too few", None]
    assert len(found.rows[1].curves) == 3


def test_calibration_by_a_path_and_made_up(tmp_path, resizes):
    """What `resize` takes, `compare` takes; each seed sees other examples of it."""
    datasets.Dataset.from_list([{"pixel_values": TRAIN[i]["pixel_values"].tolist()} for i in range(20)]).save_to_disk(
        tmp_path / "data"
    )
    given = {"methods": ["calibrated"], "seeds": [0, 1], "calibration_size": 12}
    found = small(tmp_path / "a", calibration=tmp_path / "data", **given)
    assert [call["calibration_size"] for call in resizes] == [12, 12]
    assert len(resizes[0]["calibration"]) == 20
    assert found.settings["calibration"] != "synthetic"
    made_up = small(tmp_path / "b", calibration="synthetic", **given)
    assert made_up.settings["calibration"] == "synthetic"
    assert resizes[-1]["calibration"] == "synthetic"
    with pytest.raises(CalibrationError, match="calibration_column='text' names a column of calibration"):
        small(tmp_path / "c", calibration_column="text", **given)
