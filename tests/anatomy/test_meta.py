"""What is given at once on `meta` has the shape and dtype that torch works out, and what does not fit is torch's own error."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

from hf_learngene.anatomy import meta, passes, probe
from hf_learngene.anatomy.probe import build
from hf_learngene.state import on_cpu


def empty(*shape: int, dtype: torch.dtype = torch.float32, device: str = "meta") -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=device)


FITTING = [
    (functional.linear, (empty(2, 3, 8), empty(5, 8), empty(5)), {}),
    (functional.linear, (empty(8), empty(5, 8)), {}),
    (functional.linear, (empty(2, 8, dtype=torch.float64), empty(5, 8, dtype=torch.float64)), {"bias": None}),
    (functional.layer_norm, (empty(2, 3, 8), (8,)), {"weight": empty(8), "bias": empty(8), "eps": 1e-6}),
    (functional.layer_norm, (empty(2, 3, 8), (3, 8)), {}),
    (functional.gelu, (empty(2, 8),), {"approximate": "tanh"}),
    (torch.cos, (empty(2, 8, dtype=torch.float64),), {}),
    (torch.sin, (empty(2, 8, dtype=torch.int64),), {}),
    (torch.Tensor.sin, (empty(2, 8),), {}),
    (torch.outer, (empty(3), empty(5)), {}),
    (torch.Tensor.outer, (empty(3, dtype=torch.float64),), {"vec2": empty(5, dtype=torch.float64)}),
    (torch.Tensor.div, (empty(2, 8), 3), {"rounding_mode": "floor"}),
    (torch.Tensor.div, (empty(2, 8, dtype=torch.int64), 3), {}),
    (torch.Tensor.mul, (empty(2, 8), empty(8)), {}),
    (torch.Tensor.__rpow__, (empty(2, 8, dtype=torch.float16), 10000), {}),
    (torch.Tensor.__rdiv__, (empty(2, 8), 1.0), {}),
    (functional.scaled_dot_product_attention, (empty(1, 2, 3, 4), empty(1, 2, 5, 4), empty(1, 2, 5, 4)), {}),
    (
        functional.scaled_dot_product_attention,
        (empty(1, 2, 3, 4), empty(1, 2, 5, 4), empty(1, 2, 5, 4)),
        {"attn_mask": empty(1, 1, 3, 5)},
    ),
    (functional.linear, (torch.ones(2, 8), torch.ones(5, 8)), {}),
]
NUMBERS = [
    ((7,), {}),
    ((2, 9), {}),
    ((9, 2, -3), {}),
    ((0, 1, 0.3), {}),
    ((5.0,), {}),
    ((5,), {"dtype": torch.float64}),
    ((5,), {"dtype": torch.float16, "requires_grad": True}),
    ((0,), {}),
]
MISFITS = [
    (functional.linear, (empty(2, 3, 7), empty(5, 8)), {}),
    (functional.linear, (empty(2, 8), empty(5, 8), empty(4)), {}),
    (functional.layer_norm, (empty(2, 3, 7), (8,)), {"weight": empty(8)}),
    (functional.layer_norm, (empty(2, 8), (8,)), {"weight": empty(7)}),
    (functional.scaled_dot_product_attention, (empty(1, 2, 3, 4), empty(1, 2, 5, 6), empty(1, 2, 5, 6)), {}),
    (torch.outer, (empty(2, 3), empty(5)), {}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), FITTING)
def test_what_fits_is_as_torch_makes_it(function, args, kwargs):
    found, wanted = meta.run(function, args, kwargs), function(*args, **kwargs)
    assert (found.shape, found.dtype, found.device) == (wanted.shape, wanted.dtype, wanted.device)


@pytest.mark.parametrize(("args", "kwargs"), NUMBERS)
def test_rows_of_numbers_are_as_torch_makes_them(args, kwargs):
    with torch.device("meta"):
        found, wanted = meta.arange(args, kwargs), torch.arange(*args, **kwargs)
    assert (found.shape, found.dtype, found.device) == (wanted.shape, wanted.dtype, wanted.device)


def test_rows_of_numbers_elsewhere_are_left_to_torch():
    assert meta.arange((3,), {"device": "cpu"}).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("function", "args", "kwargs"), MISFITS)
def test_what_does_not_fit_is_left_to_torch(function, args, kwargs):
    with pytest.raises(RuntimeError) as wanted:
        function(*args, **kwargs)
    with pytest.raises(RuntimeError) as found:
        meta.run(function, args, kwargs)
    assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize("own_config", [{}, {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}])
def test_nothing_is_left_on_the_cpu_so_sounds_are_traced_on_meta(own_config, monkeypatch):
    config = Wav2Vec2Config(
        hidden_size=24, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, conv_dim=(16, 16), conv_kernel=(4, 2),
        conv_stride=(2, 2), num_feat_extract_layers=2, num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=4, **own_config,
    )  # fmt: skip
    assert not torch.Tensor(24).is_meta  # what its constructor asks for
    model = build(Wav2Vec2Model, config)
    assert all(p.is_meta for p in model.parameters())
    assert model.masked_spec_embed.requires_grad
    monkeypatch.setattr(passes, "_built", lambda model, configs: iter(()))  # no model on the CPU
    assert passes.plain_pass(model, config, set(), [config]).products


def test_a_tie_of_what_was_left_on_the_cpu_stays_one():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.Tensor(3))
            self.other = self.one

    model = Tied()
    probe._leave_nothing_behind(model, list(model.named_parameters(remove_duplicate=False)))
    assert model.one is model.other
    assert model.one.is_meta


def test_what_makes_tensors_is_what_torch_asks_its_default_device_for():
    from torch.utils._device import _device_constructors  # private: only to hold the list against it

    assert _device_constructors() == meta.MAKERS


@pytest.mark.parametrize("default", ["cpu", "meta"])
def test_a_build_takes_no_memory_whatever_the_default_device(default):
    with torch.device(default):
        model = build(ViTModel, ViTConfig(num_hidden_layers=1))
        assert torch.empty(1).device.type == default
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("default", ["cpu", "meta"])
def test_tensors_are_made_on_the_cpu_whatever_the_default_device(default):
    with torch.device(default), on_cpu():
        assert torch.empty(1).device.type == "cpu"
