"""A sample of what a Hub may answer, of which `make faults` tries all; and of pushes that are killed."""

from __future__ import annotations

import os

import pytest

from faults.hub import Asked, answers
from faults.outcomes import Outcome, wrong
from faults.pushes import killed_pushes


pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs run in forks"), pytest.mark.usefixtures("hub")]


@pytest.fixture
def asked(served, client, tmp_path):
    return Asked(served, client, tmp_path)


@pytest.mark.parametrize("job", ["resize", "push_folder"])
def test_a_wrong_answer_leaves_nothing_half(asked, job):
    cases = list(answers(asked, [job], cases=4, seed=3))
    assert wrong(cases) == []
    assert len(cases) == 4


def test_a_killed_push_arrives_whole_or_not_at_all(asked):
    cases = list(killed_pushes(asked, 1, seed=0))
    assert wrong(cases) == []
    assert {case.outcome for case in cases} <= {Outcome.WHOLE, Outcome.ABSENT}
