"""A sample of the disks and outputs that `make faults` tries all of."""

from __future__ import annotations

import errno
import os

import pytest

from faults import disks
from faults.commands import COMMANDS, World
from faults.mounts import can_mount
from faults.outcomes import Outcome, wrong


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs run in forks")


@pytest.fixture(scope="module")
def tried(faulty_world: World, tmp_path_factory):
    faulty_world.warm(tmp_path_factory.mktemp("warm"), ["save_resized"])
    return disks.Tried(faulty_world, tmp_path_factory.mktemp("disks"), COMMANDS["save_resized"])


def test_operations_may_fail(tried):
    cases = list(disks.failing_operations(tried, 8, numbers=[errno.ENOSPC]))
    assert wrong(cases) == []
    assert len(cases) == 8 < len(tried.operations)
    assert sum(case.outcome is Outcome.TYPED for case in cases) > len(cases) // 2


def test_operations_are_drawn_evenly_from_all_and_by_a_seed():
    assert disks.drawn(3, 5, "0") == [0, 1, 2]
    found = [disks.drawn(200, 20, str(seed)) for seed in range(300)]
    assert all(number // 10 == span for numbers in found for span, number in enumerate(numbers))
    assert {number for numbers in found for number in numbers} == set(range(200))
    assert found[0] == disks.drawn(200, 20, "0") != found[1]


def test_files_may_not_grow(tried):
    cases = list(disks.small_files(tried, (0, 1000, 1 << 30)))
    assert wrong(cases) == []
    assert [case.outcome for case in cases] == [Outcome.TYPED, Outcome.TYPED, Outcome.WHOLE]


@pytest.mark.skipif(not can_mount(), reason="nothing can be mounted here")
def test_disks_that_are_too_small(tried):
    cases = [*disks.full_disks(tried, 2), *disks.temporary_folders(tried)]
    assert wrong(cases) == []
    assert {Outcome.TYPED, Outcome.WHOLE} == {case.outcome for case in cases}


@pytest.mark.slow
def test_outputs_in_places_that_are_none(tried):
    assert wrong(disks.places(tried)) == []


def test_two_writers(tried):
    assert wrong(disks.two_writers(tried, 2, seed=0)) == []
