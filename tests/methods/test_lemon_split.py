"""How LEMON splits a column over its copies by `comp`, the released BERT script's rule. That growth is exact: test_growth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ViTForImageClassification

from hf_learngene import resize, verify
from testing.families import inputs_for, tiny_model


NOISE = 0.1 * 0.02  # the script's scale of the initialiser range


def columns_of(model, name: str) -> torch.Tensor:
    return model.get_parameter(name).detach()


def test_the_first_copy_holds_the_column_and_the_second_noise():
    model = tiny_model("bert", "BertModel")
    name = "encoder.layer.1.intermediate.dense.weight"
    source = columns_of(model, name)
    grown = columns_of(resize(model, method="lemon", symmetry="comp", hidden_size=48), name)
    first, second = grown[: len(source)].split(24, dim=1)
    torch.testing.assert_close(first + second, source)
    assert second.std().item() == pytest.approx(NOISE, rel=0.1)
    assert (first - source).abs().max() <= 5 * NOISE


def test_more_copies_hold_noise_of_their_own():
    model = tiny_model("bert", "BertModel")
    name = "encoder.layer.0.attention.self.query.weight"
    source = columns_of(model, name)
    grown = columns_of(resize(model, method="lemon", symmetry="comp", hidden_size=72), name)
    first, second, third = grown[: len(source)].split(24, dim=1)
    torch.testing.assert_close(first + second + third, source)
    for noise in (second, third):
        assert noise.std().item() == pytest.approx(NOISE, rel=0.1)
    assert abs(torch.corrcoef(torch.stack([second.flatten(), third.flatten()]))[0, 1].item()) < 0.2


def test_units_without_a_copy_keep_their_column():
    model = tiny_model("vit", "ViTModel")
    source = columns_of(model, "layers.0.mlp.fc2.weight")  # 40 units, of which 30 get a copy
    grown = columns_of(resize(model, method="lemon", symmetry="comp", intermediate_size=70), "layers.0.mlp.fc2.weight")
    assert torch.equal(grown[:, 30:40], source[:, 30:])
    torch.testing.assert_close(grown[:, :30] + grown[:, 40:], source[:, :30])


def test_zeros_of_new_layers_still_cancel():
    model = tiny_model("vit", "ViTForImageClassification")
    grown = resize(model, method="lemon", symmetry="comp", depth="cancelzero", hidden_size=48, num_hidden_layers=5)
    report = verify(model, grown, inputs_for(model))
    assert report.relative <= 1e-10, report
    assert columns_of(grown, "vit.layers.4.mlp.fc2.weight").std() > 0.01  # random, not zero


VIT = Path(__file__).resolve().parents[3] / "shared" / "data" / "vit-small-p14-56-cifar10"


@pytest.mark.skipif(not VIT.exists(), reason="the shared checkpoints are not here")
@pytest.mark.parametrize("symmetry", ["proj", "comp", "equal"])
def test_the_parts_that_cancel_do_so_in_float32_where_activations_are_large(symmetry):
    model = ViTForImageClassification.from_pretrained(VIT, dtype=torch.float32).eval()
    grown = resize(model, method="lemon", symmetry=symmetry, hidden_size=768)
    report = verify(model, grown)
    assert report.function_preserving, report
