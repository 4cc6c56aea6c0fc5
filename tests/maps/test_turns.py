"""Layers that alternate: every map through depth keeps each in its turn."""

from __future__ import annotations

import pytest

from hf_learngene.maps import LayerMap


@pytest.mark.parametrize("period", [1, 2, 3])
def test_fewer_layers_are_spread_in_turns(period):
    for old in range(1, 25):
        for new in range(1, old + 1):
            picked = [layer.index for layer in LayerMap.spread(old, new, period)]
            assert len(picked) == new
            assert picked == sorted(set(picked)), (old, new)
            assert picked[0] == 0
            assert all((index - place) % period == 0 for place, index in enumerate(picked)), (old, new, picked)
            if new == old:
                assert picked == list(range(old))


@pytest.mark.parametrize("period", [1, 2, 3])
def test_layers_are_inserted_in_turns(period):
    for old in range(1, 13):
        for new in range(old, 3 * old + 2):
            made = LayerMap.insert(old, new, period=period)
            assert len(made) == new
            assert [layer.index for layer in made if not layer.inserted] == list(range(old))
            for place, layer in enumerate(made):
                known = place % period in {i % period for i in range(old)}
                assert (layer.index - place) % period == 0 or not known or (layer.inserted and period == 1), (old, new)


def test_spread_turns_reach_the_last_layers():
    assert [layer.index for layer in LayerMap.spread(18, 6, 2)] == [0, 1, 8, 9, 16, 17]
    assert [layer.index for layer in LayerMap.spread(18, 5, 2)] == [0, 1, 8, 9, 16]
