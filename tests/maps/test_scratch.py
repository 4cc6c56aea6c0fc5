"""Memory that is used again on the way changes no bit of a result, and no result lies in it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hf_learngene.maps import Op, Scale, Split, Take, TensorRecipe, apply
from hf_learngene.maps.ops import Blocks
from hf_learngene.maps.scratch import Scratch


@dataclass(frozen=True)
class Same(Op):
    """An op that hands on what it is given."""

    def __call__(self, tensor, context):
        return tensor


@dataclass(frozen=True)
class Both(Op):
    """An op made of two."""

    first: Op
    second: Op

    def __call__(self, tensor, context):
        return torch.cat([self.first(tensor, context), self.second(tensor, context)], 1)


DOUBLED, MORE, THINNED, TURNED = (
    torch.arange(12) % 6,
    torch.cat([torch.arange(6), torch.tensor([0, 1, 0, -1])]),
    torch.arange(3) * 2,
    torch.tensor([5, 0, 3]),
)
ROWS = [Take(Blocks(0), index, new=new) for index in (DOUBLED, MORE, THINNED, TURNED) for new in ("zero", "random")]
COLUMNS = [
    Take(Blocks(1), TURNED),
    Split(Blocks(1), DOUBLED, std=0.02),
    Split(Blocks(1), MORE, std=0.02, new="random"),
    Split(Blocks(1), torch.arange(24) % 6, std=0.02),
    Split(Blocks(1), MORE, ratio=0.1),
    Split(Blocks(1), DOUBLED, std=0.02, first=True),
    Same(),
]
TURNS = Both(Take(Blocks(1), TURNED), Take(Blocks(1), THINNED + 1))  # six columns again
CHAINS = [(row, column, *then) for row in ROWS for column in COLUMNS for then in ((), (Scale(0.5),), (Same(),))]
CHAINS += [(row, TURNS, Scale(0.5)) for row in ROWS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_no_bit_changes_and_nothing_made_is_overwritten(dtype):
    source = {f"w{n}": torch.randn(6, 6, generator=torch.Generator().manual_seed(n)).to(dtype) for n in range(3)}
    recipes = []
    for number, ops in enumerate(CHAINS):
        rows = len(ops[0].index)
        columns = len(getattr(ops[1], "index", range(6)))
        recipes.append(TensorRecipe(f"t{number}", (rows, columns), ((f"w{number % 3}", 1.0),), ops))
    alone = dict(apply(source, recipes))  # gradients might be asked for: new memory for everything
    with torch.no_grad():
        together = dict(apply(source, recipes))
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        assert torch.equal(tensor, together[name]), name
    places = [tensor.untyped_storage().data_ptr() for tensor in together.values()]
    assert len(set(places)) == len(places)


def test_rooms_are_used_again_and_grow():
    scratch = Scratch()
    small = scratch.room("one", (2, 3), torch.float32)
    assert scratch.room("one", (3,), torch.float32).data_ptr() == small.data_ptr()
    assert scratch.room("two", (3,), torch.float32).data_ptr() != small.data_ptr()
    large = scratch.room("one", (100, 3), torch.float32)
    assert large.shape == (100, 3)
    assert scratch.holds(large[7:])
    assert not scratch.holds(small)  # the room is another one now, and who holds the old one keeps it
    with torch.inference_mode():
        assert not scratch.room("three", (5,), torch.float32).is_inference()
