"""What several files about `compare` share."""

from __future__ import annotations

import pytest

from hf_learngene import resize
from hf_learngene.comparing import run
from testing.comparing import forbid_training, whole


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Two sizes by four methods with two seeds; five of the eight cells can be made."""
    folder = tmp_path_factory.mktemp("finished")
    return whole(folder), folder


@pytest.fixture
def resizes(monkeypatch):
    """What `resize` was called with."""
    calls = []

    def recorded(model, **kwargs):
        calls.append(kwargs)
        return resize(model, **kwargs)

    monkeypatch.setattr(run, "resize", recorded)
    return calls


@pytest.fixture
def untrained(monkeypatch):
    """Fails on any training or measuring."""
    forbid_training(monkeypatch)
