"""Noise depends on the seed and the tensor's name alone: not on the caller's dtype, device or mode, nor on what ran before."""

from __future__ import annotations

import contextlib

import pytest
import torch

from hf_learngene.maps import TensorRecipe, apply
from hf_learngene.maps import noise as pool
from hf_learngene.maps.ops import Blocks, Context, Split


def noise(seed=3, dtype=torch.float64):
    return Context({}.__getitem__, seed, "some.tensor").normal((40, 50), 0.5, dtype)


@pytest.fixture(autouse=True)
def _no_pool():
    pool._pool.cache_clear()
    yield
    pool._pool.cache_clear()


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "ambient",
    [lambda: default_dtype(torch.float64), lambda: default_dtype(torch.float16), lambda: torch.device("meta"),
     torch.inference_mode],
    ids=["float64", "float16", "meta", "inference"],
)  # fmt: skip
def test_the_callers_surroundings_change_nothing(ambient):
    wanted = noise()
    pool._pool.cache_clear()
    with ambient():
        inside = noise()
    after = noise()
    assert inside.device.type == "cpu"
    assert torch.equal(inside, wanted)
    assert torch.equal(after, wanted)  # the pool that was made inside serves later calls
    assert abs(float(wanted.std()) - 0.5) < 0.05
    assert not torch.equal(noise(seed=4), wanted)


def test_what_is_made_of_an_inference_tensor_can_be_trained():
    with torch.inference_mode():
        source = {"w": torch.ones(4, 4)}
    kept, split = TensorRecipe("w", (4, 4), (("w", 1.0),)), Split(Blocks(1), torch.arange(8) % 4, std=0.1)
    with torch.no_grad():
        made = [
            *apply(source, [kept], share=True),
            *apply(source, [TensorRecipe("w", (4, 8), (("w", 1.0),), (split,))]),
        ]
    for _, tensor in made:
        assert not tensor.is_inference()
        torch.nn.Parameter(tensor).square().sum().backward()
