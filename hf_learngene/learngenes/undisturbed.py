"""A guard of the random state that transformers' Trainer seeds when it is made, whatever it is made for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random state of torch, numpy and Python as it was before; unlike `seeded`, it keeps no other thread out."""
    python, numpy_ = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)
