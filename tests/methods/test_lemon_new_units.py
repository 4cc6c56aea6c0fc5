"""`lemon` with `new_units="aki"`: new layers whose new heads and units are those of the layer above, and the same function."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import plan, resize, resize_with_optimizer, verify
from hf_learngene.errors import UnknownOptionError
from testing.families import inputs_for, tiny_model
from testing.numerics import EXACT


AKI = {"method": "lemon", "new_units": "aki"}
LARGER = {"hidden_size": 48, "num_hidden_layers": 7}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert", "BertForMaskedLM"),
        ("vit", "ViTForImageClassification"),
        ("modernbert", "ModernBertForMaskedLM"),
        ("roberta-prelayernorm", "RobertaPreLayerNormForMaskedLM"),
    ],
)
def test_the_function_stays(kind, name):
    model = tiny_model(kind, name, {"layer_norm_eps": 1e-12} if kind == "bert" else {})
    assert verify(model, resize(model, **AKI, **LARGER), inputs_for(model)).relative <= EXACT


def test_new_heads_and_units_are_those_of_the_layer_above():
    model = tiny_model("bert", "BertModel")
    made = resize(model, **AKI, symmetry="equal", **LARGER)  # 3 to 7: 0 new, 1 new, 2 new new
    source, layers = model.encoder.layer, made.encoder.layer
    halves = {"attention.self.query": 24, "attention.self.value": 24, "intermediate.dense": 40}
    for place, own in ((1, 0), (3, 1)):
        for module, old in halves.items():
            weight, bias = (getattr(layers[place].get_submodule(module), n) for n in ("weight", "bias"))
            for rows, layer in ((slice(0, old), own), (slice(old, None), own + 1)):
                wanted = source[layer].get_submodule(module)
                torch.testing.assert_close(weight[rows], wanted.weight.repeat(1, 2) / 2)
                assert torch.equal(bias[rows], wanted.bias)
    for module, old in halves.items():  # nothing is above the last layer, and layers of the source keep copies
        for place in (0, 2, 4, 5, 6):
            weight = layers[place].get_submodule(module).weight
            assert torch.equal(weight[:old], weight[old:])


def test_new_heads_are_found_where_heads_become_larger():
    model = tiny_model("vit", "ViTModel")
    made = resize(
        model, **AKI, symmetry="equal", hidden_size=48, head_dim=12, num_attention_heads=4, num_hidden_layers=5
    )
    inserted, above = made.layers[2].attention.v_proj.weight, model.layers[2].attention.v_proj.weight
    old = model.layers[1].attention.v_proj.weight
    heads = inserted.reshape(4, 12, 48)[:, :8]
    torch.testing.assert_close(heads[:3], old.reshape(3, 8, 24).repeat(1, 1, 2) / 2)
    torch.testing.assert_close(heads[3], above.reshape(3, 8, 24)[0].repeat(1, 2) / 2)
    assert verify(model, made, inputs_for(model)).relative <= EXACT


def test_the_plan_says_so_and_a_training_goes_on():
    model = tiny_model("bert", "BertModel")
    origins = {t.name: t.origin for t in plan(model, **AKI, **LARGER).tensors}
    assert origins["encoder.layer.1.intermediate.dense.weight"].endswith("new from above")
    assert not origins["encoder.layer.0.intermediate.dense.weight"].endswith("new from above")
    optimizer = torch.optim.AdamW(model.parameters())
    model(**inputs_for(model)).last_hidden_state.sin().sum().backward()
    optimizer.step()
    grown, made = resize_with_optimizer(model, optimizer, **AKI, **LARGER)
    assert grown.encoder.layer[0].intermediate.dense.weight in made.state
    assert grown.encoder.layer[1].intermediate.dense.weight not in made.state


def test_units_that_cancel_need_copies():
    with pytest.raises(UnknownOptionError, match="allzero"):
        plan(tiny_model("vit", "ViTModel"), **AKI, depth="cancelzero", hidden_size=48)
    with pytest.raises(UnknownOptionError, match="copies, aki"):
        plan(tiny_model("vit", "ViTModel"), method="lemon", new_units="new", hidden_size=48)
