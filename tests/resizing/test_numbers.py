"""Weights that are no numbers are refused before examples are looked at, and named; where nothing is looked at, they are kept."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import AutoModelForImageClassification, resize
from hf_learngene.errors import UnsupportedSourceError
from testing.families import tiny_model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["auto", "calibrated"])
def test_a_weight_that_is_no_number_is_named(tmp_path, value, method):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    with torch.no_grad():
        model.vit.layers[1].mlp.fc1.weight[0, 0] = value
    model.save_pretrained(tmp_path)
    message = r"`vit.layers.1.mlp.fc1.weight` of {} is not all finite numbers"
    with pytest.raises(UnsupportedSourceError, match=message.format("the model")):
        resize(model, hidden_size=16, method=method)
    with pytest.raises(UnsupportedSourceError, match=message.format(f"`{tmp_path}`")):
        AutoModelForImageClassification.from_pretrained_resized(tmp_path, hidden_size=16, method=method)
    deeper = resize(model, num_hidden_layers=4)
    assert sum(not bool(p.isfinite().all()) for p in deeper.parameters()) >= 1
