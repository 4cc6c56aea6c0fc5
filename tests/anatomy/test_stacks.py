"""Stacks of layers beside the encoder are probed on two of their layers, with the same result as on all."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import anatomy_of, infer
from hf_learngene.anatomy.probe import build
from hf_learngene.anatomy.stacks import Sample, sample_of
from testing.families import model_class, tiny_config


def whole(model_class, config, section_of, model, containers):
    return Sample(config, model, {})


@pytest.mark.parametrize(
    ("kind", "name", "section", "other", "field"),
    [
        ("vit_mae", "ViTMAEForPreTraining", None, "", "decoder_num_hidden_layers"),
        ("clip", "CLIPModel", "vision_config", "text_config", "num_hidden_layers"),
        ("clip", "CLIPModel", "text_config", "vision_config", "num_hidden_layers"),
    ],
)
def test_two_layers_tell_what_all_do(kind, name, section, other, field, monkeypatch):
    cls = model_class(name)
    config = tiny_config(kind, cls.main_input_name)
    setattr(getattr(config, other) if other else config, field, 6)
    built, build_ = [], infer.build
    monkeypatch.setattr(infer, "build", lambda *a: built.append(0) or build_(*a))
    short = anatomy_of(config, cls, section)
    assert built  # this config was in no cache
    infer._CACHE.clear()
    monkeypatch.setattr(infer, "sample_of", whole)
    assert anatomy_of(config, cls, section) == short
    infer._CACHE.clear()


def test_the_decoder_is_short_where_it_is_probed():
    cls = model_class("ViTMAEForPreTraining")
    config = tiny_config("vit_mae", cls.main_input_name)
    config.decoder_num_hidden_layers = 6
    sample = sample_of(cls, config, "", build(cls, config), ["vit.layers"])
    stack = "decoder.decoder_layers"
    assert (sample.config.decoder_num_hidden_layers, config.decoder_num_hidden_layers) == (2, 6)
    assert sample.depths == {stack: 6}
    assert [sample.stand_in(f"{stack}.{i}") for i in range(6)] == [f"{stack}.{i}" for i in (0, 1, 1, 1, 1, 1)]
    assert sample.stand_in("vit.layers.4.mlp") == "vit.layers.4.mlp"


class Tapered(PreTrainedModel):
    """A stack whose layers become narrower: none stands for another."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.tail = nn.ModuleList(nn.Linear(20 - i * config.step, 4) for i in range(config.tail_layers))
        self.post_init()


@pytest.mark.parametrize(("step", "depths"), [(0, {"tail": 5}), (1, {})])
def test_layers_that_differ_stay(step, depths):
    config = PreTrainedConfig(tail_layers=5, step=step)
    model = build(Tapered, config)
    sample = sample_of(Tapered, config, "", model, [])
    assert sample.depths == depths
    assert (sample.model is model) == (not depths)
    assert all(p.device == torch.device("meta") for p in sample.model.parameters())
