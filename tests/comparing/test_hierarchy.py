"""A Swin shrunk in every stage: it trains, it is compared with others, and it leaves PyTorch as any model."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import compare, resize
from testing.comparing import FINE, SETUP
from testing.families import inputs_for
from testing.hierarchies import tiny_hierarchy
from testing.training import Images


HALF = {"embed_dim": 4, "num_heads": [1, 1, 1, 2], "depths": [1, 1, 2, 1]}


@pytest.fixture(scope="module")
def source():
    return tiny_hierarchy("swin", dtype=torch.float32)


def test_it_goes_through_compare(source, tmp_path):
    train, held = Images(16, size=64), Images(8, size=64)
    methods = {
        "random": "random",
        "selected": "weight_selection",
        "front": "front",
        "taylor": "taylor",
        "lemon": "lemon",
    }
    given = {**SETUP, "steps": 2, "seeds": [0], **FINE}
    found = compare(source, {"half": HALF}, train, held, methods=methods, output_dir=tmp_path / "compared", **given)
    cells = {row.method: row for row in found.rows}
    assert {name for name, row in cells.items() if row.cannot is None} == {"random", "selected", "front"}
    assert "ranks one residual stream" in cells["taylor"].cannot
    assert "it only grows" in cells["lemon"].cannot
    small = resize(source, method="random", **HALF)
    assert {row.parameters for row in cells.values() if row.cannot is None} == {small.num_parameters()}
    assert cells["selected"].curves != cells["random"].curves
    assert "half" in (tmp_path / "compared" / "comparison.md").read_text()


def test_a_step_of_training_reaches_every_tensor(source):
    small = resize(source, method="weight_selection", **HALF).train()
    inputs = inputs_for(small, batch=4)
    before = {n: p.detach().clone() for n, p in small.named_parameters()}
    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = small(**inputs, labels=torch.arange(4)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    same = {n for n, p in small.named_parameters() if torch.equal(p, before[n])}
    assert not same


@pytest.mark.parametrize("made", ["shrunk", "grown"])
def test_it_is_exported(source, made):
    model = resize(source, **(HALF if made == "shrunk" else {"embed_dim": 16, "depths": [2, 2, 3, 3]}))
    inputs = inputs_for(model)
    program = torch.export.export(model, (), kwargs=inputs)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(**inputs).logits, model(**inputs).logits, rtol=0, atol=2e-5)
