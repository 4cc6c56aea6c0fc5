"""What the samples of faults share: a world of tiny checkpoints."""

from __future__ import annotations

import pytest

from faults.commands import World


@pytest.fixture(scope="session")
def faulty_world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("faults") / "world")
