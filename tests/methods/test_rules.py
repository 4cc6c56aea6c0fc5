"""Each method does what its paper says, entry for entry, against a rule written out here once more."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import transformers
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from scipy import fft

from hf_learngene import resize
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.resample import dct_matrix
from testing.families import tiny_model


# 24 → 16 and 40 → 27 do not divide, 3 → 2 layers: every branch of the rule is taken
SMALLER = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "hidden_size": 24}  # 4 heads of 6


def released(old, new):
    """The rule released with Weight Selection: a float32 `linspace` from both ends, each entry rounded once, halves to even."""
    if old % new == 0:
        return [i * (old // new) for i in range(new)]
    step = Fraction(float(np.float32(old - 1) / np.float32(new - 1)))
    exact = [step * i if i < new // 2 else old - 1 - step * (new - 1 - i) for i in range(new)]
    return [round(float(np.float32(float(entry)))) for entry in exact]


def picked(tensor, shape, rule=released):
    """Every dimension on its own, as the released code does."""
    for dim, size in enumerate(shape):
        tensor = tensor.index_select(dim, torch.tensor(rule(tensor.shape[dim], size)))
    return tensor


def parameters(model):
    return {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}


def tensor_of(model, name):
    return parameters(model)[name]


# ---- weight selection: which entries


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (8, 4, [0, 2, 4, 6]),
        (9, 3, [0, 3, 6]),
        (5, 5, [0, 1, 2, 3, 4]),
        (7, 1, [0]),
        (5, 3, [0, 2, 4]),
        (4, 3, [0, 2, 3]),  # 1.5 → 2
        (6, 5, [0, 1, 2, 4, 5]),  # 2.5 → 2
        (10, 3, [0, 4, 9]),  # 4.5 → 4
    ],
)
def test_evenly_spaced_entries(old, new, wanted):
    assert uniform_indices(old, new).tolist() == released(old, new) == wanted


@pytest.mark.parametrize("old", [192, 384, 512, 768, 1024, 1536, 3072, 4096])
def test_evenly_spaced_entries_of_the_usual_sizes(old):
    for new in (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640, 768, 1024, 1280, 1536, 2048, 3072):
        if new <= old:
            assert uniform_indices(old, new).tolist() == released(old, new)


@given(st.integers(1, 600).flatmap(lambda old: st.tuples(st.just(old), st.integers(1, old))))
def test_evenly_spaced_entries_are_distinct_and_nearest(sizes):
    old, new = sizes
    index = uniform_indices(old, new)
    assert index.dtype == torch.int64
    assert len(set(index.tolist())) == new
    if old % new:
        exact = torch.arange(new, dtype=torch.float64) * (old - 1) / (new - 1)
        assert (index - exact).abs().max() <= 0.5 + old * torch.finfo(torch.float32).eps
        assert (index[0], index[-1]) == (0, old - 1)
    else:
        assert index.tolist() == released(old, new)


@pytest.mark.parametrize(
    ("kind", "class_name"),
    [("vit", "ViTForImageClassification"), ("bert", "BertForMaskedLM"), ("distilbert", "DistilBertModel")],
)
def test_weight_selection_is_the_released_rule_in_every_tensor(kind, class_name):
    model = tiny_model(kind, class_name)
    source, small = parameters(model), parameters(resize(model, method="weight_selection", **SMALLER))
    assert small
    for name, tensor in small.items():
        assert torch.equal(tensor, picked(source[name], tensor.shape)), name


def test_consecutive_takes_the_first_entries():
    model = tiny_model("vit", "ViTForImageClassification")
    small = parameters(resize(model, method="weight_selection", element_selection="consecutive", **SMALLER))
    for name, tensor in small.items():
        assert torch.equal(tensor, picked(tensor_of(model, name), tensor.shape, lambda old, new: range(new))), name


def found_in(part, whole):
    """Index of each entry of a vector in another."""
    places = (part[:, None] == whole[None]).nonzero()
    assert places[:, 0].tolist() == list(range(len(part)))
    return places[:, 1].tolist()


def axes_used(model, small):
    """The entries that a selection took, along each axis, read off vectors of distinct values."""
    source, small = parameters(model), parameters(small)
    layers = range(2)
    hidden = [
        ("vit.embeddings.cls_token", 0),
        ("vit.embeddings.patch_embeddings.projection.bias", 0),
        ("vit.layernorm.weight", 0),
    ]
    hidden += [
        (f"vit.layers.{i}.{n}", 0)
        for i in layers
        for n in ("attention.o_proj.bias", "mlp.fc2.bias", "layernorm_before.bias")
    ]
    heads = [(f"vit.layers.{i}.attention.{n}_proj.bias", 0) for i in layers for n in "qkv"]
    ffn = [(f"vit.layers.{i}.mlp.fc1.bias", 0) for i in layers]
    return [[found_in(small[n].flatten(), source[n].flatten()) for n, _ in names] for names in (hidden, heads, ffn)]


def test_random_takes_one_set_for_each_axis_everywhere():
    model = tiny_model("vit", "ViTForImageClassification")
    request = {"method": "weight_selection", "element_selection": "random", "seed": 3, **SMALLER}
    small = resize(model, **request)
    (hidden, *more), (heads, *more_heads), (ffn, *more_ffn) = axes_used(model, small)
    assert all(other == hidden for other in more)
    assert all(other == heads for other in more_heads)
    assert all(other == ffn for other in more_ffn)
    assert hidden == sorted(set(hidden))
    assert hidden not in (released(24, 16), list(range(16)))
    source, made = parameters(model), parameters(small)
    query = "vit.layers.1.attention.q_proj.weight"
    assert torch.equal(made[query], source[query][heads][:, hidden])
    down = "vit.layers.1.mlp.fc2.weight"
    assert torch.equal(made[down], source[down][hidden][:, ffn])
    assert axes_used(model, resize(model, **{**request, "seed": 4}))[0][0] != hidden


def test_random_inconsistent_takes_a_set_for_each_tensor():
    model = tiny_model("vit", "ViTForImageClassification")
    small = resize(model, method="weight_selection", element_selection="random_inconsistent", **SMALLER)
    for axis in axes_used(model, small):
        assert len({tuple(index) for index in axis}) == len(axis)  # no two alike


@pytest.mark.parametrize(("depth", "wanted"), [(1, [0]), (3, [0, 2, 5]), (4, [0, 2, 3, 5]), (6, [0, 1, 2, 3, 4, 5])])
def test_layer_selection(depth, wanted):
    model = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 6})
    for selection, layers in (("first", list(range(depth))), ("uniform", wanted)):
        small = resize(model, method="weight_selection", layer_selection=selection, num_hidden_layers=depth)
        for new, old in enumerate(layers):
            assert torch.equal(small.vit.layers[new].mlp.fc1.weight, model.vit.layers[old].mlp.fc1.weight)
            assert torch.equal(
                small.vit.layers[new].layernorm_before.bias, model.vit.layers[old].layernorm_before.bias
            )
        assert torch.equal(small.vit.layernorm.weight, model.vit.layernorm.weight)


def test_headwise_keeps_heads_whole():
    model = tiny_model("vit", "ViTForImageClassification", HEADS)
    small = resize(model, method="weight_selection", hidden_size=12, num_attention_heads=2, head_selection="headwise")
    flat = resize(model, method="weight_selection", hidden_size=12, num_attention_heads=2)
    rows = [*range(0, 6), *range(12, 18)]  # heads 0 and 2 of 0 to 3, all six entries of each
    for old, new in zip(model.vit.layers, small.vit.layers, strict=True):
        for name in ("q_proj", "k_proj", "v_proj"):
            source, made = (layer.attention.get_submodule(name) for layer in (old, new))
            assert torch.equal(made.weight, source.weight[rows][:, ::2])
            assert torch.equal(made.bias, source.bias[rows])
        assert torch.equal(new.attention.o_proj.weight, old.attention.o_proj.weight[::2][:, rows])
    assert torch.equal(
        flat.vit.layers[0].attention.q_proj.weight, model.vit.layers[0].attention.q_proj.weight[::2, ::2]
    )


def test_headwise_picks_heads_then_entries_in_each():
    model = tiny_model("vit", "ViTForImageClassification", HEADS)
    small = resize(model, method="weight_selection", num_attention_heads=2, head_dim=3, head_selection="headwise")
    rows = [0, 2, 4, 12, 14, 16]
    assert torch.equal(small.vit.layers[2].attention.k_proj.weight, model.vit.layers[2].attention.k_proj.weight[rows])
    assert torch.equal(
        small.vit.layers[2].attention.o_proj.weight, model.vit.layers[2].attention.o_proj.weight[:, rows]
    )


@pytest.mark.parametrize("head_selection", ["flat", "headwise"])
def test_a_fused_projection_is_selected_part_by_part(head_selection):
    model = tiny_model("modernbert", "ModernBertModel", {"hidden_size": 40, "num_attention_heads": 5})
    small = resize(
        model, method="weight_selection", hidden_size=24, intermediate_size=27, head_selection=head_selection
    )
    whole = [*range(0, 8), *range(16, 24), *range(32, 40)]  # heads 0, 2 and 4
    rows = torch.tensor(released(40, 24) if head_selection == "flat" else whole)
    columns = torch.tensor(released(40, 24))
    for old, new in zip(model.layers, small.layers, strict=True):
        parts = rearrange(old.attn.Wqkv.weight, "(part row) column -> part row column", part=3)
        wanted = rearrange(parts[:, rows][:, :, columns], "part row column -> (part row) column")
        assert torch.equal(new.attn.Wqkv.weight, wanted)
        assert not torch.equal(
            wanted, picked(old.attn.Wqkv.weight, (72, 24))
        )  # one fused axis would pair q and k wrongly
        gate = rearrange(old.mlp.Wi.weight, "(part row) column -> part row column", part=2)
        wanted = rearrange(gate[:, released(40, 27)][:, :, columns], "part row column -> (part row) column")
        assert torch.equal(new.mlp.Wi.weight, wanted)
        assert torch.equal(new.mlp.Wo.weight, old.mlp.Wo.weight[columns][:, released(40, 27)])


@pytest.mark.parametrize("head_selection", ["flat", "headwise"])
def test_a_projection_fused_inside_its_heads(head_selection):
    model = tiny_model("deberta", "DebertaModel")
    small = resize(model, method="weight_selection", hidden_size=16, head_selection=head_selection)
    rows = torch.tensor(released(24, 16) if head_selection == "flat" else [*range(0, 8), *range(16, 24)])
    for old, new in zip(model.encoder.layer, small.encoder.layer, strict=True):
        before, after = old.attention.self, new.attention.self
        parts = rearrange(before.in_proj.weight, "(head part size) column -> part (head size) column", head=3, part=3)
        parts = parts[:, rows][:, :, released(24, 16)]
        wanted = rearrange(parts, "part (head size) column -> (head part size) column", head=2)
        assert torch.equal(after.in_proj.weight, wanted)
        assert torch.equal(after.q_bias, before.q_bias[rows])
        assert torch.equal(after.pos_proj.weight, before.pos_proj.weight[rows][:, released(24, 16)])


# ---- layers


def test_layers_copies_the_layers_named_and_keeps_the_rest():
    model = tiny_model("bert", "BertForMaskedLM", {"num_hidden_layers": 6})
    for layer_map, wanted in (([0, 2, 5], [0, 2, 5]), ((1, -1), [1, 5]), ([3, 0, 3, 1], [3, 0, 3, 1])):
        small = resize(model, method="layers", layer_map=layer_map)
        assert small.config.num_hidden_layers == len(wanted)
        expected = parameters(model)
        for name, tensor in parameters(small).items():
            head, found, tail = name.partition("encoder.layer.")
            number, _, rest = tail.partition(".")
            source = f"{head}{found}{wanted[int(number)]}.{rest}" if found else name
            assert torch.equal(tensor, expected[source]), name


# ---- random


def test_random_takes_nothing_but_the_config():
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    made = resize(model, method="random", hidden_size=48, seed=7)
    twin = resize(
        tiny_model("bert", "BertForMaskedLM", dtype=torch.float32, seed=1), method="random", hidden_size=48, seed=7
    )
    other = resize(model, method="random", hidden_size=48, seed=8)
    for name, tensor in parameters(made).items():
        assert torch.equal(tensor, tensor_of(twin, name))  # other weights in the source, the same result
        kind = "norm" if "LayerNorm" in name else "bias" if name.endswith("bias") else "matrix"
        if kind == "matrix":
            assert abs(float(tensor.std()) / made.config.initializer_range - 1) < 0.2, name
            assert not torch.equal(tensor, tensor_of(other, name))
        else:
            assert (tensor == (1.0 if kind == "norm" and name.endswith("weight") else 0.0)).all(), name


def test_random_is_the_familys_own_initialisation_under_the_seed():
    model = tiny_model("vit", "ViTModel", dtype=torch.float32)
    made = resize(model, method="random", hidden_size=16, seed=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        plain = transformers.ViTModel(made.config)
    assert all(torch.equal(tensor, tensor_of(plain, name)) for name, tensor in parameters(made).items())


# ---- front


def low_frequencies(array, shape):
    """Cosine transform of a whole array, cut or padded to a shape, and back; constants stay what they are."""
    changed = [i for i, (a, b) in enumerate(zip(array.shape, shape, strict=True)) if a != b]
    frequencies = fft.dctn(array.numpy(), type=2, norm="ortho", axes=changed)
    resized = torch.zeros(shape, dtype=array.dtype)
    common = tuple(slice(min(a, b)) for a, b in zip(array.shape, shape, strict=True))
    resized[common] = torch.from_numpy(frequencies)[common]
    scale = 1.0
    for axis in changed:
        scale *= (shape[axis] / array.shape[axis]) ** 0.5
    return torch.from_numpy(fft.idctn(resized.numpy(), type=2, norm="ortho", axes=changed)) * scale


@pytest.mark.parametrize(
    "request_",
    [
        {"hidden_size": 16, "num_hidden_layers": 2},
        {"hidden_size": 40, "num_hidden_layers": 5},
        {"hidden_size": 48},
        {"num_hidden_layers": 2},
    ],
    ids=str,
)
def test_front_is_the_cosine_transform_of_each_component_stacked_over_the_layers(request_):
    model = tiny_model("vit", "ViTForImageClassification")
    made = resize(model, method="front", scaling="constant", **request_)
    components = [n.removeprefix("vit.layers.0.") for n in parameters(model) if n.startswith("vit.layers.0.")]
    assert len(components) == 16
    for component in components:
        before, after = (
            torch.stack([tensor_of(m, f"vit.layers.{i}.{component}") for i in range(m.config.num_hidden_layers)])
            for m in (model, made)
        )
        assert torch.allclose(after, low_frequencies(before, after.shape), atol=1e-12), component
    for name in (
        "vit.embeddings.cls_token",
        "vit.embeddings.position_embeddings",
        "vit.layernorm.bias",
        "classifier.weight",
    ):
        before, after = tensor_of(model, name), tensor_of(made, name)
        assert torch.allclose(after, low_frequencies(before, after.shape), atol=1e-12), name


def test_front_keeps_constants():
    model = tiny_model("vit", "ViTForImageClassification")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 + len(name))
    for request in (SMALLER, {"hidden_size": 40, "num_hidden_layers": 4}):
        for name, tensor in parameters(resize(model, method="front", scaling="constant", **request)).items():
            if ".layers." in name or name in ("vit.embeddings.cls_token", "vit.layernorm.weight", "classifier.bias"):
                assert torch.allclose(tensor, torch.full_like(tensor, 1.0 + len(name)), atol=1e-10), name


def test_front_goes_up_and_down_again_without_loss():
    model = tiny_model("vit", "ViTForImageClassification")
    larger = resize(model, method="front", scaling="constant", hidden_size=40, num_hidden_layers=5)
    back = resize(larger, method="front", scaling="constant", hidden_size=24, num_hidden_layers=3)
    for name, tensor in parameters(back).items():
        assert torch.allclose(tensor, tensor_of(model, name), atol=1e-10), name


def test_front_treats_the_parts_of_a_fused_projection_alone():
    model = tiny_model("modernbert", "ModernBertModel")
    small = resize(model, method="front", scaling="constant", hidden_size=16)
    before, after = (
        rearrange(m.layers[1].attn.Wqkv.weight.detach(), "(part row) column -> part row column", part=3)
        for m in (model, small)
    )
    for part in range(3):
        assert torch.allclose(after[part], low_frequencies(before[part], (16, 16)), atol=1e-12)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_cosine_matrix_is_the_transform_of_scipy(old, new):
    eye = torch.eye(old, dtype=torch.float64)
    wanted = torch.stack([low_frequencies(column, (new,)) if old != new else column for column in eye], 1)
    assert torch.allclose(dct_matrix(old, new), wanted, atol=1e-12)
