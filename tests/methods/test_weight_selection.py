"""The index rule of Weight Selection, entry for entry that of the released code, on every machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_learngene.maps.ops import uniform_indices


def rounded_linspace(old: int, new: int) -> np.ndarray:
    """What the released code picks where sizes do not divide: `round(linspace(0, old - 1, new))` in single precision.

    `torch.linspace` counts up from the first value in the lower half and down from the last in the upper half. Here every
    step, product and difference is rounded by itself, and `np.rint` rounds halves to even. A processor that rounds product
    and difference once (a fused multiply-add) finds the same indices: up to 400 entries no pair of sizes tells the two apart.
    """
    last = np.float32(old - 1)
    step = last / np.float32(new - 1)
    place = np.arange(new, dtype=np.float32)
    spaced = np.where(place < new // 2, step * place, last - step * (np.float32(new - 1) - place))
    assert spaced.dtype == np.float32
    return np.rint(spaced).astype(np.int64)


def test_evenly_spaced_entries_are_the_released_ones_of_every_pair_of_sizes():
    wrong = [
        (old, new)
        for old in range(2, 201)
        for new in range(2, old)
        if old % new and not np.array_equal(uniform_indices(old, new).numpy(), rounded_linspace(old, new))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("old", "new", "place", "entry"),
    [
        # halfway between two entries, 13.5 and 23.5: the last bit of float32 decides, and that of float64 decides otherwise
        (28, 27, 13, 14),
        (48, 23, 11, 23),
        (6144, 3584, 3224, 5528),
        # large sizes, where processors differ: what those with fused multiply-adds (x86 since 2013) give the released code
        (5120, 2304, 1780, 3957),
        (6144, 4096, 4094, 6142),
    ],
)
def test_a_half_goes_where_single_precision_puts_it(old, new, place, entry):
    assert uniform_indices(old, new)[place].item() == entry


@pytest.mark.parametrize("old", [6144, 8192, 12288])
@pytest.mark.parametrize("new", [5, 769, 4097, 5119])
def test_entries_of_large_sizes_are_distinct_and_reach_from_end_to_end(old, new):
    index = uniform_indices(old, new)
    assert len(index) == new
    assert (index[0], index[-1]) == (0, old - 1)
    assert bool((index.diff() > 0).all())


def test_an_entry_may_come_twice_where_a_large_size_loses_one():
    index = uniform_indices(6144, 6143)
    assert (index[0], index[-1]) == (0, 6143)
    assert sorted(set(index.diff().tolist())) == [0, 1, 2]  # as released; a neighbour is left out instead


def test_whole_multiples_start_at_the_first_entry():
    for new in (1, 2, 3, 192, 384):
        assert torch.equal(uniform_indices(new * 4, new), torch.arange(0, new * 4, 4))
