"""`Split` without noise: each source column's copies get equal shares of it, differentiably."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_learngene.maps.ops import Blocks, Context, Split, Take


NOTHING = Context({}.__getitem__)


def indices(old: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, old - 1), min_size=1, max_size=12)


@given(indices(4), st.sampled_from([0, 1]), st.sampled_from([1, 2]))
def test_the_copies_sum_to_their_source_and_are_equal(index, dim, parts):
    shape = [3, 3]
    shape[dim] = 4 * parts
    tensor = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = Split(Blocks(dim, parts), torch.tensor(index))(tensor, NOTHING)
    for part, whole in zip(made.chunk(parts, dim), tensor.chunk(parts, dim), strict=True):
        for source in set(index):
            copies = part.index_select(dim, torch.tensor([i for i, s in enumerate(index) if s == source]))
            torch.testing.assert_close(copies.sum(dim), whole.select(dim, source))
            torch.testing.assert_close(copies, copies.narrow(dim, 0, 1).expand_as(copies))


@given(indices(4))
def test_a_product_is_kept(index):
    weight = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    used = torch.zeros(4, dtype=torch.float64)
    used[sorted(set(index))] = 1.0
    columns = torch.tensor(index)
    wide = Split(Blocks(1), columns)(weight, NOTHING) @ Take(Blocks(0), columns)(inputs, NOTHING)
    torch.testing.assert_close(wide, weight @ (used * inputs))


@pytest.mark.parametrize("op", [Split, Take])
@pytest.mark.parametrize("index", [[0, 1, 2, 0, 1], [2, 0, 0], [1], list(range(3)) * 20])
@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_pass(op, index, parts):
    tensor = torch.randn(2, 3 * parts, dtype=torch.float64, requires_grad=True)
    step = op(Blocks(1, parts), torch.tensor(index))
    assert torch.autograd.gradcheck(lambda t: step(t, NOTHING), (tensor,))


def test_new_columns_and_cancelled_ones_stay_what_they_are():
    tensor = torch.ones(2, 2)
    made = Split(Blocks(1), torch.tensor([0, 0, -1, 1]))(tensor, NOTHING)
    assert made.tolist() == [[0.5, 0.5, 0.0, 1.0]] * 2
    assert not Split(Blocks(1), torch.tensor([0, 0, 1]), cancel=True)(tensor, NOTHING).any()
