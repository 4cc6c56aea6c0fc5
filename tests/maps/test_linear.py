"""The linear part of every op is what the op does to a change, and acts on one factor of a change of low rank."""

from __future__ import annotations

import pytest
import torch

import hf_learngene.methods  # noqa: F401  some have ops of their own
from hf_learngene.anatomy.types import HIDDEN, Dim
from hf_learngene.maps import Fill, Matrix, Op, Scale, Split, Take, TensorRecipe, Weigh
from hf_learngene.maps.linear import LinearRecipe, linear
from hf_learngene.maps.ops import Blocks, Context
from hf_learngene.maps.resample import (
    FirstRows,
    MixChannels,
    RepeatLine,
    ResampleGrid,
    ResampleKernel,
    ResampleLine,
    ResampleRelative,
)
from hf_learngene.maps.selection import Keep, Selection
from hf_learngene.methods.lemon import _FusedHeads


INDEX = torch.tensor([0, 1, 2, 3, 0, 1, -1])
FUSED = Blocks(0, 3)
TABLE, KERNEL = (4, 6), (5, 3, 4, 4)
# (op, shape of its tensor)
OPS = [
    (Take(Blocks(0), INDEX, new="random", scale=0.5), TABLE),
    (Take(Blocks(0), INDEX, new="one"), TABLE),
    (Take(Blocks(0), INDEX, new="mean", weights="scale"), TABLE),
    (Take(Blocks(1, 2, by_head=True, heads=(1, 1)), torch.tensor([2, 0])), TABLE),
    (Split(Blocks(0), INDEX, std=0.3, new="random"), TABLE),
    (Split(Blocks(0), INDEX, std=0.3, first=True), TABLE),
    (Split(Blocks(0), INDEX, std=0.3, cancel=True), TABLE),
    (Matrix(Blocks(1), torch.arange(18.0, dtype=torch.float64).reshape(3, 6)), TABLE),
    (Weigh(0, "scale"), TABLE),
    (Scale(0.3), TABLE),
    (Fill(2.0), TABLE),
    (Keep(Selection((0,), torch.tensor([1, 3])), 0, Dim(HIDDEN, 4), None), TABLE),
    (FirstRows(0, 7), TABLE),
    (RepeatLine(0, 9, 1), TABLE),
    (ResampleLine(0, 9, 1), TABLE),
    (ResampleGrid(0, (3, 3), (2, 4), 1), (10, 6)),
    (ResampleRelative(1, (2, 2), (3, 3), 3), (2, 12)),
    (MixChannels(1, 5), KERNEL),
    (ResampleKernel((4, 4), (3, 6)), KERNEL),
    (_FusedHeads(FUSED, INDEX, scales=(2.0, 1.0, 1.0)), (12, 6)),
]
# They read other tensors than the one that they are given, act on two dimensions at once, or standardise.
WITHOUT = {"TakeGrouped", "Lengthen", "Beside", "FromAbove", "_Standardise", "_Restore"}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SCALE = {"scale": random(4, seed=9)}


@pytest.mark.parametrize(("op", "shape"), OPS, ids=lambda v: type(v).__name__ if isinstance(v, Op) else "")
def test_the_linear_part_is_what_becomes_of_a_change(op, shape):
    def run(tensor):  # equal contexts draw equal noise
        return op(tensor.clone(), Context(SCALE.__getitem__, name="w"))

    left, right = random(shape[0], 2, seed=1), random(2, *shape[1:], seed=2)
    change = (left @ right.flatten(1)).reshape(shape)
    source = random(*shape)
    wanted = run(source + change) - run(source)
    recipe = LinearRecipe.of(TensorRecipe("w", tuple(wanted.shape), (("w", 1.0),), (op,)), SCALE.__getitem__)
    torch.testing.assert_close(recipe(change), wanted)
    product = recipe.rows(left) @ recipe.columns(right).flatten(1)
    torch.testing.assert_close(product.reshape(wanted.shape), wanted)


def test_a_weight_of_the_source_counts_once():
    recipe = LinearRecipe.of(TensorRecipe("w", TABLE, (("v", 0.5),), (Scale(3.0),)), SCALE.__getitem__)
    left, right = random(4, 2), random(2, 6)
    torch.testing.assert_close(recipe(left @ right), 1.5 * left @ right)
    torch.testing.assert_close(recipe.rows(left) @ recipe.columns(right), 1.5 * left @ right)


def test_every_op_has_a_linear_part_or_says_that_it_has_none():
    ops = [o for o in Op.__subclasses__() if o.__module__.startswith(("hf_learngene.maps", "hf_learngene.methods"))]
    assert {o.__name__ for o in ops} == WITHOUT | {type(op).__name__ for op, _ in OPS}
    assert {o.__name__ for o in ops if linear.dispatch(o) is linear.dispatch(Op)} == WITHOUT


def test_a_recipe_that_mixes_tensors_has_none():
    assert LinearRecipe.of(TensorRecipe("w", TABLE, (("v", 0.5), ("w", 0.5))), SCALE.__getitem__) is None
