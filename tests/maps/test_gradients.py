"""A gradient follows its tensor so that it pulls back to the source's: AᵀB = 1, entry by entry."""

from __future__ import annotations

import pytest
import torch

from hf_learngene.maps import Fill, Matrix, Op, Scale, Split, Take, TensorRecipe, Weigh
from hf_learngene.maps.convolutions import TakeGrouped
from hf_learngene.maps.gradients import GradientRecipe, first_copies, gradient
from hf_learngene.maps.linear import LinearRecipe
from hf_learngene.maps.ops import Blocks
from hf_learngene.maps.resample import FirstRows, RepeatLine, ResampleLine
from hf_learngene.methods.lemon import _FusedHeads


INDEX = torch.tensor([0, 1, 2, 3, 0, 1, 0, -1])
TABLE = (4, 5)
ROWS, COLUMNS = torch.tensor([0, 1, 2, 3, 2]), torch.tensor([0, 1, 2, 3, 4, 1, 1])
# (ops, shape of the source)
CHAINS = [
    ((Take(Blocks(0), INDEX, new="random", scale=0.5),), TABLE),
    ((Take(Blocks(0), INDEX, new="one"),), TABLE),
    ((Split(Blocks(0), INDEX, std=0.3, new="random"),), TABLE),
    ((Split(Blocks(0), INDEX, std=0.3, first=True),), TABLE),
    ((Split(Blocks(0), INDEX, ratio=0.3),), TABLE),
    ((Take(Blocks(0), ROWS), Split(Blocks(1), COLUMNS, std=0.1), Scale(0.25)), TABLE),
    ((Take(Blocks(0, 2), torch.tensor([0, 1, 0])),), TABLE),
    ((Take(Blocks(0, 2, by_head=True, heads=(2, 2)), torch.tensor([0, 1, 0, -1])),), (4, 3)),
    ((_FusedHeads(Blocks(0, 3), torch.tensor([0, 1, 2, 0, 1]), scales=(2.0, 1.0, 1.0)),), (9, 3)),
    ((Matrix(Blocks(0), torch.eye(6, 4)[torch.tensor([3, 5, 0, 4, 1, 2])] * 2.0),), TABLE),
    ((RepeatLine(0, 9, 1),), TABLE),
    ((Scale(-3.0),), TABLE),
]


def recipes(ops, shape):
    done = TensorRecipe("made", (), (("w", 1.0),), ops)
    linear = LinearRecipe.of(done, lambda name: torch.zeros(shape))
    return done, linear


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("ops", "shape"), CHAINS)
def test_what_was_carried_pulls_back_to_what_it_was(ops, shape, first):
    done, linear = recipes(ops, shape)
    change, given = torch.randn(2, *shape, dtype=torch.float64)
    carried = GradientRecipe.of(done, first)(given)
    torch.testing.assert_close((linear(change) * carried).sum(), (change * given).sum())


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("ops", "shape"), CHAINS)
def test_second_moments_follow_as_squares(ops, shape, first):
    given = torch.randn(shape, dtype=torch.float64)
    made = GradientRecipe.of(recipes(ops, shape)[0], first)
    torch.testing.assert_close(made.squared(given**2), made(given) ** 2)


@pytest.mark.parametrize(("ops", "shape"), CHAINS)
def test_originals_are_one_entry_for_each_of_the_source(ops, shape):
    made = GradientRecipe.of(recipes(ops, shape)[0])
    assert made.of_originals(torch.zeros(shape)).sum() == torch.zeros(shape).numel()


def test_shares_are_told_by_who_reads_the_copies():
    done, _ = recipes((Take(Blocks(0), torch.tensor([0, 1, 0])),), (2,))
    given = torch.tensor([4.0, 8.0])
    assert GradientRecipe.of(done)(given).tolist() == [2.0, 8.0, 2.0]
    assert GradientRecipe.of(done, first=True)(given).tolist() == [4.0, 8.0, 0.0]
    split, _ = recipes((Split(Blocks(0), torch.tensor([0, 1, 0])),), (2,))
    assert GradientRecipe.of(split)(given).tolist() == [4.0, 8.0, 4.0]


def test_a_weight_on_the_source_is_undone():
    made = GradientRecipe.of(TensorRecipe("made", (2,), (("w", 0.5),)))
    assert made(torch.tensor([1.0, 2.0])).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("op", [Fill(1.0), Split(Blocks(0), INDEX, std=0.1, cancel=True)])
def test_what_is_filled_or_cancels_has_nothing_of_the_source(op):
    made = GradientRecipe.of(recipes((op,), TABLE)[0])
    assert made.starts_anew
    assert not made(torch.ones(TABLE)).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_stays_and_memory_is_not_shared(dtype):
    given = torch.rand(TABLE).to(dtype)
    for ops in ((), (Scale(0.5),)):
        made = GradientRecipe.of(recipes(ops, TABLE)[0])
        assert made(given).dtype == made.squared(given).dtype == dtype
        assert made(given).data_ptr() != given.data_ptr()


UNKNOWN = [
    Op(), Weigh(0, "s"), ResampleLine(0, 9, 1), FirstRows(0, 9), Scale(0.0), Matrix(Blocks(0), torch.ones(6, 4)),
    TakeGrouped(torch.tensor([0, 1, 2, 3, 0, 1]), 2),
]  # fmt: skip


@pytest.mark.parametrize("op", UNKNOWN, ids=lambda op: type(op).__name__)
def test_no_map_is_made_up(op):
    assert gradient(op) is None
    assert GradientRecipe.of(recipes((op,), TABLE)[0]) is None


def test_nothing_follows_what_is_mixed_or_fresh():
    assert GradientRecipe.of(TensorRecipe("made", (2,), (("a", 0.5), ("b", 0.5)))) is None
    assert GradientRecipe.of(TensorRecipe("made", (2,))) is None


def test_copies_in_any_order():
    assert first_copies(torch.tensor([2, -1, 2, 0, 0, 1])).tolist() == [2, -1, -1, 0, -1, 1]
