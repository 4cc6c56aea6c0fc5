"""A model that is not what its config says is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hf_learngene import resize
from hf_learngene.errors import UnsupportedSourceError
from testing.families import tiny_model


@pytest.mark.parametrize(
    "asked", [{"num_hidden_layers": 5}, {"hidden_size": 16}, {"hidden_size": 16, "method": "random"}]
)
def test_more_layers_than_the_config_says(asked):
    model = tiny_model("bert", "BertModel")
    model.encoder.layer.append(copy.deepcopy(model.encoder.layer[0]))
    with pytest.raises(
        UnsupportedSourceError, match=r"more parameters \(16\), such as `encoder.layer.3.*num_hidden_layers"
    ):
        resize(model, **asked)
    model.config.num_hidden_layers = 4
    assert resize(model, num_hidden_layers=2).config.num_hidden_layers == 2


def test_parameters_that_were_added():
    model = tiny_model("vit", "ViTModel")
    model.prompt = nn.Parameter(torch.zeros(4))
    with pytest.raises(UnsupportedSourceError, match=r"more parameters \(1\), such as `prompt`"):
        resize(model, hidden_size=16)
