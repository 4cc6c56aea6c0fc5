"""A sample of the kills that `make faults` does all of."""

from __future__ import annotations

import os

import pytest

from faults.commands import World
from faults.kills import kills
from faults.outcomes import Outcome, wrong


# What trains is left to `make faults`: torch refuses a backward pass in a fork of a process that has had one.
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs run in forks")


@pytest.mark.parametrize(
    "name", ["resize_checkpoint", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resize --overwrite", "init"))]
)
def test_a_kill_leaves_all_or_nothing(faulty_world: World, tmp_path, name):
    cases = list(kills(faulty_world, tmp_path, [name], cases=3, seed=1))
    assert wrong(cases) == []
    assert len(cases) == 6
    assert any(case.outcome is Outcome.ABSENT for case in cases)  # or nothing was killed in time
