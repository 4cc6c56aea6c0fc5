"""The amplitude of FRONT: with `released` every tensor is what the authors' code makes of it, written out here with scipy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import fft

from hf_learngene import resize
from hf_learngene.errors import UnknownOptionError
from hf_learngene.methods import Front
from testing.families import tiny_model


LAYER = re.compile(r"\.(\d+)\.")
# of models of 3 layers, width 24, 3 heads and 40 units
REQUESTS = [
    {"hidden_size": 16},
    {"hidden_size": 48},
    {"intermediate_size": 30},
    {"num_hidden_layers": 2},
    {"num_hidden_layers": 5},
    {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 50},
]


def parameters(model) -> dict[str, np.ndarray]:
    return {n: p.detach().numpy() for n, p in model.named_parameters()}


def by_kind(tensors: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The tensors of all layers together, in the layers' order."""
    found: dict[str, list[np.ndarray]] = {}
    for name, tensor in tensors.items():
        found.setdefault(LAYER.sub(".#.", name), []).append(tensor)
    return found


def released(layers: list[np.ndarray], count: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Z-scores of every layer's tensor, their unnormalised cosine transform cut or padded, and back; then each layer's own mean
    and deviation, the last one's for layers that the source does not have."""
    mean, deviation = [t.mean() for t in layers], [t.std(ddof=1) for t in layers]
    stack = np.stack([(t - m) / (d + 1e-8) for t, m, d in zip(layers, mean, deviation, strict=True)])
    target = (count, *shape)
    axes = [i for i, (old, new) in enumerate(zip(stack.shape, target, strict=True)) if old != new]
    kept = np.zeros(target)
    both = tuple(slice(min(old, new)) for old, new in zip(stack.shape, target, strict=True))
    kept[both] = fft.dctn(stack, axes=axes)[both]
    made = fft.idctn(kept, axes=axes)
    last = len(layers) - 1
    return [made[i] * deviation[min(i, last)] + mean[min(i, last)] for i in range(count)]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
@pytest.mark.parametrize(("kind", "name"), [("vit", "ViTModel"), ("bert", "BertModel")])
def test_the_released_scale_is_that_of_the_released_code(kind, name, request_):
    model = tiny_model(kind, name)
    before = by_kind(parameters(model))
    after = by_kind(parameters(resize(model, method="front", **request_)))
    assert after.keys() == before.keys()
    for component, made in after.items():
        layers = before[component]
        if made[0].shape == layers[0].shape and len(made) == len(layers):
            assert all(np.array_equal(a, b) for a, b in zip(made, layers, strict=True)), component
            continue
        wanted = released(layers, len(made), made[0].shape)
        np.testing.assert_allclose(np.stack(made), np.stack(wanted), rtol=1e-9, atol=1e-9, err_msg=component)


def test_half_a_width_makes_matrices_four_times_as_large_and_keeps_their_mean():
    model = tiny_model("vit", "ViTModel")
    constant, released_ = (
        resize(model, method="front", scaling=scaling, hidden_size=12, num_attention_heads=3)
        for scaling in ("constant", "released")
    )
    source = model.layers[1].attention.o_proj.weight.detach()
    small, large = (m.layers[1].attention.o_proj.weight.detach() for m in (constant, released_))
    torch.testing.assert_close(large - source.mean(), 4 * (small - source.mean()), rtol=1e-6, atol=1e-6)


def test_layers_past_the_sources_are_not_the_same_one():
    grown = resize(tiny_model("vit", "ViTModel"), method="front", num_hidden_layers=5)
    weights = [layer.mlp.fc1.weight for layer in grown.layers]
    assert not any(torch.equal(a, b) for a, b in zip(weights, weights[1:], strict=False))


def test_a_tensor_of_one_value_keeps_it():
    model = tiny_model("vit", "ViTModel")
    with torch.no_grad():
        for layer in model.layers:
            layer.layernorm_before.weight.fill_(1.0)
    for request in ({"hidden_size": 16}, {"num_hidden_layers": 5}):
        for layer in resize(model, method="front", **request).layers:
            torch.testing.assert_close(layer.layernorm_before.weight, torch.ones_like(layer.layernorm_before.weight))


def test_layers_whose_tables_are_interpolated_too_are_standardised_after_it():
    model = tiny_model("beit", "BeitModel")
    made = resize(model, method="front", num_hidden_layers=2, image_size=16)
    tables = {n: p for n, p in made.named_parameters() if "relative_position_bias_table" in n}
    assert len(tables) == 2
    assert all(bool(p.isfinite().all()) for p in made.parameters())


def test_another_scaling_is_refused():
    with pytest.raises(UnknownOptionError, match="scaling is one of released, constant; it was 'orthonormal'"):
        Front(scaling="orthonormal")


def test_the_released_amplitude_of_a_tensor_that_only_the_first_layer_has():
    """WavLM's table of distances: layers that are mixed into the first one have none."""
    model = tiny_model("wavlm", "WavLMModel")
    made = resize(model, method="front", num_hidden_layers=2)
    table = "encoder.layers.0.attention.rel_attn_embed.weight"
    assert made.get_parameter(table).shape == model.get_parameter(table).shape
    assert all(torch.isfinite(p).all() for p in made.parameters())
