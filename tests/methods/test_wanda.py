"""Wanda against its rule written out once more, and its refit."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import resize
from hf_learngene.calibration.examples import Examples
from hf_learngene.errors import DirectionError, UnknownOptionError
from testing.examples import examples_for
from testing.families import tiny_model


def inputs_of(model, modules, examples):
    """(tokens, inputs) of each module over all examples, one by one, so that nothing is padded."""
    found = {name: [] for name in modules}
    handles = [
        model.get_submodule(n).register_forward_pre_hook(
            lambda m, a, n=n: found[n].append(a[0].detach().flatten(0, -2))
        )
        for n in modules
    ]
    with torch.no_grad():
        for example in examples:
            model(**{k: torch.as_tensor(v)[None] for k, v in example.items()})
    for handle in handles:
        handle.remove()
    return {name: torch.cat(values) for name, values in found.items()}


def test_units_heads_and_entries_follow_the_rule():
    model = tiny_model("vit", "ViTForImageClassification")
    examples = examples_for(model, 40)
    made = resize(
        model, method="wanda", calibration=examples, hidden_size=16, num_attention_heads=2, intermediate_size=20
    )
    blocks = model.vit.layers
    writers = [f"vit.layers.{i}.{m}" for i in range(len(blocks)) for m in ("mlp.fc2", "attention.o_proj")]
    names = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "mlp.fc1")
    readers = [f"vit.layers.{i}.{m}" for i in range(len(blocks)) for m in names] + ["classifier"]
    seen = inputs_of(model, [*writers, *readers], examples)

    def score(name):
        return (model.get_submodule(name).weight.detach().abs() * seen[name].norm(dim=0)).sum(0)

    def largest(scores, keep):
        return scores.argsort(descending=True)[:keep].sort().values

    entries = largest(sum(score(name) for name in readers), 16)
    for i, block in enumerate(blocks):
        units = largest(score(f"vit.layers.{i}.mlp.fc2"), 20)
        wanted = block.mlp.fc2.weight.detach()[entries][:, units]
        torch.testing.assert_close(made.vit.layers[i].mlp.fc2.weight.detach(), wanted)
        heads = largest(score(f"vit.layers.{i}.attention.o_proj").reshape(3, -1).sum(1), 2)
        columns = (heads[:, None] * 8 + torch.arange(8)).flatten()
        wanted = block.attention.o_proj.weight.detach()[entries][:, columns]
        torch.testing.assert_close(made.vit.layers[i].attention.o_proj.weight.detach(), wanted)


@pytest.mark.parametrize(("family", "name"), [("vit", "ViTForImageClassification"), ("bert", "BertForMaskedLM")])
@pytest.mark.parametrize("sizes", [{"intermediate_size": 20}, {"hidden_size": 16}], ids=str)
def test_the_refit_brings_it_nearer_to_the_source(family, name, sizes):
    model = tiny_model(family, name)
    examples = examples_for(model, 128)
    plain, refitted = (
        resize(model, method="wanda", refit=refit, calibration=examples, **sizes) for refit in (False, True)
    )

    def distance(other):
        with torch.no_grad():
            pairs = [[m(**batch).logits for m in (other, model)] for batch in Examples(examples, model).batches()]
        return sum(float((found - wanted).pow(2).sum()) for found, wanted in pairs)

    assert distance(refitted) < 0.7 * distance(plain)


def test_layers_and_other_options_are_refused():
    model = tiny_model("vit", "ViTForImageClassification")
    with pytest.raises(DirectionError, match="says nothing of whole layers"):
        resize(model, method="wanda", calibration=examples_for(model, 8), num_hidden_layers=2)
    with pytest.raises(UnknownOptionError, match="refit is True or False"):
        resize(model, method="wanda", refit="yes", calibration=examples_for(model, 8), intermediate_size=20)


def test_a_width_of_the_embeddings_is_no_head():
    """ALBERT reads its narrow embeddings through a norm of their own."""
    model = tiny_model("albert", "AlbertForTokenClassification")
    made = resize(model, method="wanda", calibration=examples_for(model, 24), hidden_size=16, intermediate_size=14)
    assert (made.config.hidden_size, made.config.embedding_size) == (16, 16)
    heads = made.albert.encoder.albert_layer_groups[0].albert_layers[0].attention.dense
    assert heads.weight.shape == (16, 16)
