"""What several files about training share."""

from __future__ import annotations

import pytest
from transformers import Trainer

from testing.training import plain_trainer


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The checkpoints of two steps of a plain Trainer; not to be changed."""
    folder = tmp_path_factory.mktemp("written")
    plain_trainer(Trainer, folder, max_steps=2).train()
    return folder
