"""Guards for state that a whole process shares: random numbers, what transformers says, and its own patches."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers.utils import logging


_LOCK = threading.RLock()


@contextmanager
def exclusive() -> Iterator[None]:
    """Keeps other threads out while something that the whole process shares is changed.

    Building a model without drawing its weights, as transformers does it, swaps functions of `torch.nn.init` for a while.
    Two threads that did so at once would put each other's swapped functions back, for good.
    """
    with _LOCK:
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers under a seed; the caller's random state is as it was afterwards."""
    with _LOCK, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed accelerators too, for good
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Gives the caller's random state back, of python, numpy and torch: a `Trainer` seeds all of them."""
    python, numpy_ = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence from transformers while it loads: what is newly initialised is said once, in the plan's words."""
    with _LOCK:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
