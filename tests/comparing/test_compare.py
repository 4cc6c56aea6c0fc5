"""`compare`: every start is trained alike, what is done is not done again, and the numbers mean what they say."""

from __future__ import annotations

import copy
import json

import datasets
import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments, default_data_collator

from hf_learngene import resize
from hf_learngene.comparing import Comparison, measuring, run
from hf_learngene.errors import (
    CalibrationError,
)
from testing.comparing import EVAL, FINE, SMALL, TRAIN, Drawing, small
from testing.training import teacher_of


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
        assert "lemon cannot make hidden_size=16: method='lemon' copies" in shown
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
