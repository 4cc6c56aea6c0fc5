"""Growth by copies, beside LEMON: each method against its rule, written out once more, and exact where its paper is."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import plan, resize, verify
from hf_learngene.errors import DirectionError, InvalidSizeError, LossyGrowthError, UnknownOptionError
from testing.families import inputs_for, tiny_model
from testing.numerics import EXACT


CASES = [
    ("vit", "ViTForImageClassification", {}),
    ("bert", "BertForMaskedLM", {}),
    ("dinov2", "Dinov2ForImageClassification", {"use_swiglu_ffn": True}),
    ("deberta", "DebertaModel", {}),
    ("distilbert", "DistilBertForMaskedLM", {}),
    ("albert", "AlbertForMaskedLM", {}),
    ("eurobert", "EuroBertForMaskedLM", {}),
    ("hubert", "HubertModel", {}),
    ("megatron-bert", "MegatronBertForMaskedLM", {}),
]


def assert_same_function(model, made):
    # some families divide by float32 roots inside (RMS norms, DeBERTa's scores)
    inside = any("RMSNorm" in type(m).__name__ for m in model.modules()) or model.config.model_type == "deberta"
    assert verify(model, made, inputs_for(model)).relative <= (5e-6 if inside else EXACT)


def from_the_middle(old: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Copies of `old` side by side along every dimension, the first of them centred; what is odd goes to the end."""
    for dim, size in enumerate(shape):
        before = (size - old.shape[dim]) // 2
        rows = [old.select(dim, (i - before) % old.shape[dim]) for i in range(size)]
        old = torch.stack(rows, dim)
    return old


@pytest.mark.parametrize(
    ("kind", "name"), [("vit", "ViTModel"), ("bert", "BertModel"), ("modernbert", "ModernBertModel")]
)
def test_tiled_from_the_middle_as_modernbert_was(kind, name):
    model = tiny_model(kind, name)
    made = resize(model, method="tile", hidden_size=32, num_attention_heads=4, intermediate_size=70)
    before = dict(model.named_parameters())
    for key, tensor in made.named_parameters():
        if "Wqkv" in key or ".Wi." in key:  # fused parts are tiled one by one
            parts = before[key].chunk(3 if "Wqkv" in key else 2)
            rest = tensor.shape[1:]
            expected = torch.cat([from_the_middle(p, (tensor.shape[0] // len(parts), *rest)) for p in parts])
        else:
            expected = from_the_middle(before[key], tuple(tensor.shape))
        assert torch.equal(tensor, expected), key


def test_tiled_from_the_edge_starts_with_the_source():
    model = tiny_model("vit", "ViTModel")
    made = resize(model, method="tile", tiling="edge", intermediate_size=70)
    assert torch.equal(made.layers[0].mlp.fc1.weight[:40], model.layers[0].mlp.fc1.weight)
    assert torch.equal(made.layers[0].mlp.fc1.weight[40:], model.layers[0].mlp.fc1.weight[:30])


@pytest.mark.parametrize(
    ("method", "options", "depth", "layers"),
    [
        ("stack", {}, 6, [0, 1, 2, 0, 1, 2]),
        ("stack", {}, 8, [0, 1, 2, 0, 1, 2, 1, 2]),
        ("stack", {"order": "repeat"}, 6, [0, 0, 1, 1, 2, 2]),
        ("stack", {"order": "repeat"}, 5, [0, 0, 1, 1, 2]),
        ("bert2bert", {}, 7, [0, 1, 2, 0, 1, 2, 2]),
        ("tile", {}, 5, [0, 1, 1, 2, 2]),
        ("tile", {}, 6, [0, 0, 1, 2, 2, 2]),  # the release would take a layer 3 of 3
    ],
)
def test_where_each_layer_comes_from(method, options, depth, layers):
    model = tiny_model("bert", "BertForMaskedLM")
    made = resize(model, method=method, num_hidden_layers=depth, **options)
    for place, layer in enumerate(layers):
        old, new = model.bert.encoder.layer[layer], made.bert.encoder.layer[place]
        assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True)), place


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("options", [{}, {"snr": 10.0}], ids=["plain", "noise"])
def test_hyperclone_keeps_the_function(case, times, options):
    kind, name, extra = case
    model = tiny_model(kind, name, extra, dtype=torch.float64)
    made = resize(model, method="hyperclone", hidden_size=24 * times, **options)
    assert made.num_parameters() > model.num_parameters()
    assert_same_function(model, made)


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case[1])
def test_hyperclone_makes_larger_heads_of_copies(case):
    kind, name, extra = case
    model = tiny_model(kind, name, extra, dtype=torch.float64)
    made = resize(model, method="hyperclone", hidden_size=48, num_attention_heads=3)
    assert_same_function(model, made)
    old, new = (dict(m.named_parameters()) for m in (model, made))
    query = next(n for n in old if n.endswith(("q_proj.bias", "query.bias")))
    copies = new[query].detach().reshape(3, 2, 8)
    assert torch.equal(copies[:, 0], copies[:, 1])
    assert torch.allclose(copies[:, 0].flatten(), old[query] * 0.5**0.25)


def test_the_noise_has_the_ratio_that_was_asked_for_and_lets_copies_part():
    model = tiny_model("vit", "ViTModel")
    plain, noisy = (resize(model, method="hyperclone", intermediate_size=400, **o) for o in ({}, {"snr": 10.0}))
    for a, b in zip(plain.layers, noisy.layers, strict=True):
        signal, noise = a.mlp.fc2.weight.detach(), (b.mlp.fc2.weight - a.mlp.fc2.weight).detach()
        assert float(20 * torch.log10(signal.norm() / noise.norm())) == pytest.approx(10.0, abs=0.5)
        assert not torch.allclose(b.mlp.fc2.weight[:, :40], b.mlp.fc2.weight[:, 40:80])


@pytest.mark.parametrize("case", CASES[:5], ids=lambda case: case[1])
def test_fpi_keeps_the_function_at_whole_multiples(case):
    kind, name, extra = case
    model = tiny_model(kind, name, extra, dtype=torch.float64)
    made = resize(model, method="bert2bert", expansion="fpi", hidden_size=48)
    assert_same_function(model, made)
    assert_same_function(model, resize(model, method="bert2bert", expansion="fpi", intermediate_size=72))
    assert not verify(model, resize(model, method="bert2bert", expansion="fpi", hidden_size=40)).function_preserving


def test_aki_takes_new_units_from_the_layer_above():
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float64)
    made = resize(model, method="bert2bert", intermediate_size=70)
    old, new = model.bert.encoder.layer, made.bert.encoder.layer
    for place in range(3):
        above = old[min(place + 1, 2)].intermediate.dense
        own = new[place].intermediate.dense
        assert torch.equal(own.weight[:40], old[place].intermediate.dense.weight)
        rows = {tuple(row) for row in above.weight.tolist()}
        assert all(tuple(row) in rows for row in own.weight[40:].tolist())
        biases = dict(zip(map(tuple, above.weight.tolist()), above.bias.tolist(), strict=True))
        assert all(
            biases[tuple(row)] == bias
            for row, bias in zip(own.weight[40:].tolist(), own.bias[40:].tolist(), strict=True)
        )
        # what reads them is this layer's, each original shared among its copies
        read = new[place].output.dense.weight
        assert torch.allclose(read.sum(1), old[place].output.dense.weight.sum(1))


def test_aki_of_a_wider_model_changes_the_function_and_shares_one_map_of_the_width():
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float64)
    made = resize(model, method="bert2bert", hidden_size=48, seed=1)
    assert not verify(model, made).function_preserving
    # embeddings have no layer above: their new entries are copies, by the map that every reader is divided by
    copies = made.vit.embeddings.cls_token.flatten()
    source = model.vit.embeddings.cls_token.flatten().tolist()
    index = [source.index(value) for value in copies.tolist()]
    assert index[:24] == list(range(24))
    assert sorted(index[24:]) == list(range(24))
    reads = made.vit.layers[0].mlp.fc1.weight[:40]
    assert torch.allclose(reads[:, :24] * 2, model.vit.layers[0].mlp.fc1.weight)
    assert torch.allclose(reads, reads[:, index])


@pytest.mark.parametrize(
    ("error", "words", "request_"),
    [
        (DirectionError, "widths stay", {"method": "stack", "hidden_size": 48}),
        (DirectionError, "only grows", {"method": "stack", "num_hidden_layers": 2}),
        (UnknownOptionError, "stack, repeat", {"method": "stack", "order": "interleave"}),
        (DirectionError, "keeps the depth", {"method": "hyperclone", "num_hidden_layers": 5}),
        (LossyGrowthError, "the nearest are 24 and 48", {"method": "hyperclone", "hidden_size": 40}),
        (LossyGrowthError, "the nearest are 40 and 80", {"method": "hyperclone", "intermediate_size": 70}),
        (UnknownOptionError, "decibels", {"method": "hyperclone", "hidden_size": 48, "snr": "loud"}),
        (DirectionError, "only grows", {"method": "hyperclone", "hidden_size": 16}),
        (InvalidSizeError, "copies heads whole", {"method": "bert2bert", "hidden_size": 48, "num_attention_heads": 3}),
        (DirectionError, "only grows", {"method": "bert2bert", "hidden_size": 16}),
        (UnknownOptionError, "aki, fpi", {"method": "bert2bert", "expansion": "both"}),
        (DirectionError, "only grows", {"method": "tile", "hidden_size": 16}),
        (UnknownOptionError, "middle, edge", {"method": "tile", "tiling": "top"}),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_refused_with_what_can(error, words, request_):
    with pytest.raises(error, match=words):
        plan(tiny_model("vit", "ViTModel"), **request_)


@pytest.mark.parametrize("method", ["stack", "bert2bert"])
def test_shared_layers_cannot_be_stacked(method):
    with pytest.raises(DirectionError, match="share one set of weights"):
        plan(tiny_model("albert", "AlbertModel"), method=method, num_hidden_layers=5)


def test_shared_keys_are_not_parted_by_random_copies():
    model = tiny_model("eurobert", "EuroBertModel", {"num_key_value_heads": 1})
    with pytest.raises(InvalidSizeError, match="shares keys and values"):
        plan(model, method="bert2bert", hidden_size=48, num_attention_heads=6)
