"""Properties that hold for every family and method: identity, direction, ties, dtype, plain results."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_learngene import resize, verify
from testing.families import inputs_for, tiny_model


@settings(max_examples=10, deadline=None)
@given(
    heads=st.integers(1, 5),
    size=st.integers(4, 11),
    ffn=st.integers(1, 90),
    hidden=st.integers(1, 60),
    depth=st.integers(1, 5),
)
def test_any_shape_of_a_vit(heads, size, ffn, hidden, depth):
    """Whatever shrinks and whatever grows: the result has the shape that was asked for; pure growth is exact."""
    model = tiny_model("vit", "ViTForImageClassification")
    sizes = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "head_dim": size,
        "intermediate_size": ffn,
        "num_hidden_layers": depth,
    }
    old = {"hidden_size": 24, "num_attention_heads": 3, "head_dim": 8, "intermediate_size": 40, "num_hidden_layers": 3}
    made = resize(model, method="auto", **sizes)
    got = {k: getattr(made.config, k, None) for k in sizes}
    got["head_dim"] = got["head_dim"] or made.config.hidden_size // made.config.num_attention_heads
    assert got == sizes
    assert torch.isfinite(made(**inputs_for(made)).logits).all()
    if all(sizes[k] >= old[k] for k in sizes):
        assert verify(model, made, inputs_for(model)).relative <= 1e-10


@settings(max_examples=6, deadline=None)
@given(times=st.integers(1, 3), heads=st.sampled_from([1, 2, 3, 6]), ffn=st.integers(1, 90), depth=st.integers(1, 6))
def test_any_shape_of_a_bert(times, heads, ffn, depth):
    model = tiny_model("bert", "BertForMaskedLM")
    sizes = {
        "hidden_size": 24 * times,
        "num_attention_heads": heads * times,
        "intermediate_size": ffn,
        "num_hidden_layers": depth,
    }
    made = resize(model, method="random", **sizes)
    assert {k: getattr(made.config, k) for k in sizes} == sizes
    if heads == 3 and ffn >= 40 and depth >= 3:
        grown = resize(model, method="lemon", **sizes)
        assert verify(model, grown, inputs_for(model)).relative <= 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_and_computed_in_float32(dtype):
    model = tiny_model("bert", "BertForSequenceClassification", dtype=torch.float32)
    half = tiny_model("bert", "BertForSequenceClassification", dtype=dtype)
    small, exact = (resize(m, method="front", hidden_size=16) for m in (half, model))
    assert {p.dtype for p in small.parameters()} == {dtype}
    rounded = {n: p.to(dtype).float() for n, p in model.named_parameters()}
    model.load_state_dict(rounded, strict=False)
    exact = resize(model, method="front", hidden_size=16)
    for (name, a), b in zip(small.named_parameters(), exact.parameters(), strict=True):
        assert torch.equal(a, b.to(dtype)), name


def test_what_starts_anew_is_what_the_constructor_draws():
    """Longformer sets its decoder's bias to zero in the constructor only: on meta nothing would."""
    model = tiny_model("longformer", "LongformerForMaskedLM", dtype=torch.float32)
    torch.full((4096,), float("nan"))  # freed memory is dirty
    made = resize(model, method="random", hidden_size=16, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        wanted = type(model)(made.config)
    for (name, a), b in zip(made.named_parameters(), wanted.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert (made.lm_head.bias == 0).all()
