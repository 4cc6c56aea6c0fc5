"""A sample of the lies that `make faults` tells all of."""

from __future__ import annotations

import os

import pytest

from faults.commands import World
from faults.liars import KINDS
from faults.lies import lies
from faults.outcomes import Outcome, wrong


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs run in forks")
# what a world without more in it has
HERE = [kind for kind in KINDS if kind.source in World.SOURCES]


@pytest.mark.parametrize("kind", HERE, ids=lambda kind: kind.name)
def test_a_lie_is_refused_or_does_no_harm(faulty_world: World, tmp_path, kind):
    cases = list(lies(faulty_world, tmp_path, [kind], cases=1, seed=2))
    assert wrong(cases) == []
    assert len(cases) == len(kind.readers)


def test_a_lie_that_is_believed_would_be_told(faulty_world: World, tmp_path):
    """Or the tests above would prove nothing."""
    (kind,) = [kind for kind in KINDS if kind.name == "header of safetensors"]
    believing = type(kind)(kind.name, kind.source, kind.lies, {"a believer": lambda world, folder, made: None})
    (case,) = lies(faulty_world, tmp_path, [believing], cases=1, seed=0)
    assert case.outcome is Outcome.HALF
