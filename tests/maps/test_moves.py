"""What is only moved is moved in the source's own dtype: bit by bit what it would be by way of float32."""

from __future__ import annotations

import pytest
import torch

from hf_learngene.maps import Take, TensorRecipe, apply, ops
from hf_learngene.maps.ops import Blocks, Context, Scale, Split


SOURCE = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
BLOCKS = [Blocks(0), Blocks(1), Blocks(0, parts=2), Blocks(1, parts=2, by_head=True, heads=(2, 1))]
INDICES = [[0, 2], [2, 1, 0], [0, 1, 0, 1], [1, -1, 0], [-1, -1]]


def through_float32(recipe, source, seed=0):
    ((_, made),) = apply({"w": source.float()}, [recipe], seed)
    return made.to(source.dtype)


@pytest.mark.parametrize("new", ["zero", "one", "random", "mean"])
@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_says_that_it_only_moves_gives_the_same_in_half_precision(dtype, blocks, index, new):
    take = Take(blocks, torch.tensor(index), new=new)
    assert take.only_moves == (new in ("zero", "one") or -1 not in index)
    source = SOURCE.to(dtype)
    made = take(source, Context({}.__getitem__, 0, "w"))
    if take.only_moves:
        assert made.dtype == dtype
        assert torch.equal(made, take(source.float(), Context({}.__getitem__, 0, "w")).to(dtype))
        assert set(made.flatten().tolist()) <= {*source.flatten().tolist(), 0.0, 1.0}


@pytest.mark.parametrize(
    "then",
    [
        (),
        (Take(Blocks(1), torch.tensor([0, 3, 5])),),
        (Split(Blocks(1), torch.arange(8).repeat(2), std=0.1),),
        (Scale(1 / 3),),
    ],
    ids=["nothing", "another", "a split", "a scale"],
)
@pytest.mark.parametrize("index", [[0, 2, 4], [5, 1, 0], [0, 1, 2, 3, 4, 5, 0, 1]], ids=str)
def test_arithmetic_behind_a_move_is_done_in_float32(index, then):
    columns = {Take: 3, Split: 16}.get(type(then[0]), 8) if then else 8
    ops = (Take(Blocks(0), torch.tensor(index)), *then)
    recipe = TensorRecipe("made", (len(index), columns), (("w", 1.0),), ops)
    source = SOURCE.bfloat16()
    ((_, made),) = apply({"w": source}, [recipe])
    assert torch.equal(made, through_float32(recipe, source))
    assert made.dtype == torch.bfloat16
    assert made.is_contiguous()


def test_a_scaled_take_is_no_mere_move():
    take = Take(Blocks(0), torch.tensor([0, 1]), scale=1 / 3)
    recipe = TensorRecipe("made", (2, 8), (("w", 1.0),), (take,))
    source = SOURCE.bfloat16()
    ((_, made),) = apply({"w": source}, [recipe])
    assert not take.only_moves
    assert torch.equal(made, through_float32(recipe, source))


def test_what_is_only_selected_is_never_cast(monkeypatch):
    seen = []
    monkeypatch.setattr(
        ops,
        "gather",
        lambda tensor, dim, index, out=None: seen.append(tensor.dtype) or tensor.index_select(dim, index),
    )
    recipe = TensorRecipe("made", (2, 8), (("w", 1.0),), (Take(Blocks(0), torch.tensor([4, 0])),))
    _ = dict(apply({"w": SOURCE.bfloat16()}, [recipe]))
    assert seen == [torch.bfloat16]


def test_the_source_is_left_as_it_is():
    source = SOURCE.clone()
    recipe = TensorRecipe(
        "made", (3, 8), (("w", 1.0),), (Take(Blocks(0), torch.arange(3)), Take(Blocks(1), torch.arange(8)))
    )
    ((_, made),) = apply({"w": source}, [recipe])
    made.zero_()
    assert torch.equal(source, SOURCE)
