"""What the tests of loading share."""

from __future__ import annotations

import logging as standard_logging

import pytest
import transformers

from hf_learngene.resizing.execute import logger


@pytest.fixture
def warnings_of_resize(caplog):
    """What a resize says, and each thing anew although it is said once per process."""
    transformers.utils.logging.warning_once.cache_clear()
    caplog.set_level(standard_logging.WARNING, logger=logger.name)
    return caplog
