"""On another device than the CPU, calibration stays there: what comes back is what is chosen, and one matrix of the width."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, ViTConfig, ViTForImageClassification

from hf_learngene import plan
from hf_learngene.calibration.examples import Examples
from hf_learngene.pruning.agreement import agreement
from hf_learngene.resizing.build_model import build_model
from hf_learngene.resizing.weights import Transfer
from testing.elsewhere import DEVICE, Elsewhere, Watched


WIDTH, SIZES = 24, {"num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}
SMALLER = {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 24}


def model_of(kind):
    torch.manual_seed(0)
    options = {"hidden_size": WIDTH, "attn_implementation": "eager", **SIZES}
    if kind == "vit":
        return ViTForImageClassification(ViTConfig(**options, image_size=16, patch_size=8)).eval()
    return BertForMaskedLM(BertConfig(**options, vocab_size=60, max_position_embeddings=24)).eval()


def examples_of(kind):
    generator = torch.Generator().manual_seed(1)
    if kind == "vit":
        return [{"pixel_values": image} for image in torch.randn(70, 3, 16, 16, generator=generator)]
    lengths = torch.randint(6, 20, (70,), generator=generator).tolist()
    return [{"input_ids": torch.randint(5, 60, (n,), generator=generator)} for n in lengths]


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("vit", SMALLER), ("vit", {"num_hidden_layers": 2, "head_dim": 3, "num_attention_heads": 4}), ("bert", SMALLER)],
)
def test_only_choices_come_back_to_the_cpu(kind, sizes):
    model = model_of(kind)
    with Examples(examples_of(kind), model) as examples:
        step = plan(model, method="calibrated", calibration=[], **sizes).passes[0]
        alone = step.method.select(step.task, model, examples, True)
        chosen = step.keeping(alone)
        weights = Transfer(model, chosen, share=False).weights()
        before = build_model(type(model), chosen.config, weights, model, anatomy=chosen.task.target)
        here = copy.deepcopy(before)
        fitted = step.method.refine(chosen.task, model, here, examples, True)
        there, target = copy.deepcopy(model), copy.deepcopy(before)
        with Watched() as watched:
            there.to(DEVICE), target.to(DEVICE)
            selection = step.method.select(step.task, there, examples, True)
            back = watched.back.copy()
            watched.back.clear()
            found = step.method.refine(step.keeping(selection).task, there, target, examples, True)
            assert not watched.back
            agreement(there, target, examples)
            assert all(isinstance(p, Elsewhere) for p in target.parameters())
        heads = [
            m.shape for maps in selection.inside.values() for m in (maps.query, maps.key, maps.value, maps.output)
        ]
        assert all(len(shape) == 1 or shape == (WIDTH, WIDTH) or shape in heads for shape in back)
        assert back[WIDTH, WIDTH] <= 2
        assert selection.layers == alone.layers
        assert [f.name for f in found] == [f.name for f in fitted]
        for (name, value), wanted in zip(target.state_dict().items(), here.state_dict().values(), strict=True):
            torch.testing.assert_close(value.held, wanted, rtol=0, atol=1e-3, msg=name)
