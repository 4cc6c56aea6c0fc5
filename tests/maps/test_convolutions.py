"""Convolutions over the width: of several groups, and under weight normalisation."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv1d

from hf_learngene.maps.convolutions import Lengthen, TakeGrouped
from hf_learngene.maps.ops import Context


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def context(**tensors):
    return Context(tensors.__getitem__)


@pytest.mark.parametrize("times", [2, 3, 8])
def test_copies_of_all_channels_are_convolved_as_the_channels_are(times):
    """Eight times four channels in two groups: each group holds several copies of what it reads."""
    weight, x = drawn(4, 2, 3), drawn(1, 4, 9)
    grown = TakeGrouped(torch.arange(4 * times) % 4, 2)(weight, context())
    assert grown.shape == (4 * times, 2 * times, 3)
    assert torch.allclose(
        conv1d(x.repeat(1, times, 1), grown, groups=2), conv1d(x, weight, groups=2).repeat(1, times, 1)
    )


def test_channels_that_keep_their_group_keep_what_they_read():
    weight, x, kept = drawn(8, 4, 3), drawn(1, 8, 9), torch.tensor([1, 3, 4, 7])
    small = TakeGrouped(kept, 2)(weight, context())
    alone = torch.zeros_like(x).index_copy(1, kept, x[:, kept])  # the channels that go are zero
    assert torch.allclose(conv1d(x[:, kept], small, groups=2), conv1d(alone, weight, groups=2)[:, kept])


def test_a_channel_in_another_group_is_not_read_there():
    small = TakeGrouped(torch.tensor([0, 1, 2, 6]), 2)(drawn(8, 4, 3), context())
    assert small[2].abs().max() > 0
    assert small[2, 1].abs().max() == 0  # 6 was of the second group, 2 of the first
    assert small[3, 0].abs().max() == 0


def test_a_new_channel_reads_nothing():
    grown = TakeGrouped(torch.tensor([0, 1, -1, 2, 3, -1]), 2)(drawn(4, 2, 3), context())
    assert grown[[2, 5]].abs().max() == 0
    assert grown[:, 2].abs().max() == 0


def test_the_length_follows_the_direction():
    direction, length = drawn(4, 2, 3), drawn(1, 1, 3).abs()
    take = TakeGrouped(torch.arange(12) % 4, 2)
    longer = Lengthen("v", "target.v", (take,))(length, context(v=direction))
    grown = take(direction, context())

    def weight(g, v):
        return g * v / v.norm(dim=(0, 1), keepdim=True)

    assert torch.allclose(weight(longer, grown), take(weight(length, direction), context()))
