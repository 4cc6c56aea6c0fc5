"""Guards for state that others share: random numbers, what transformers says and patches, modes of models, autocast."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn
from transformers.utils import logging


_LOCK = threading.RLock()
_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def exclusive() -> Iterator[None]:
    """Keeps other threads out while something that the whole process shares is changed.

    Building a model without drawing its weights, as transformers does it, swaps functions of `torch.nn.init` for a while.
    Two threads that did so at once would put each other's swapped functions back, for good.
    """
    with _LOCK:
        yield


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers under a seed, those of an accelerator too if named; the caller's random state is as it was afterwards."""
    accelerators = [device] if device is not None and device.type == "cuda" else []
    with _LOCK, torch.random.fork_rng(devices=accelerators), _numpy_kept():
        torch.default_generator.manual_seed(
            seed
        )  # torch.manual_seed would seed every accelerator, for good, and takes long
        for place in accelerators:
            with torch.cuda.device(place):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def on_cpu() -> Iterator[None]:
    """Tensors that are given no device are made on the CPU, whatever the caller's default is.

    Where that is the CPU already, nothing is entered: under a device's mode each call of torch goes through Python.
    """
    if torch.get_default_device().type == "cpu":
        yield
        return
    with torch.device("cpu"):
        yield


@contextmanager
def _numpy_kept() -> Iterator[None]:
    """Gives numpy's random state back: some models draw from it even in eval mode (wav2vec 2.0's adapter)."""
    kept = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(kept)


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


@contextmanager
def without_autocast() -> Iterator[None]:
    """Autocast off on every device where the caller has it on: it would round activations and their products."""
    with ExitStack() as stack:
        for kind in _DEVICES:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def without_old_garbage() -> Iterator[None]:
    """Garbage is looked for among what is made from here on, not among all that was imported: that takes longer than a plan."""
    if gc.get_freeze_count():  # the caller has objects of its own there
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode, and autocast off; afterwards every module has its own mode again, after an error too.

    A model that training left in train mode drops activations at random, which would decide what is kept.
    """
    with in_eval_mode([module for model in models for module in model.modules()]):
        yield


@contextmanager
def in_eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """`evaluating` for models whose modules are listed already: to find them takes a small model as long as to run."""
    training = [module for module in modules if module.training]
    with without_autocast():
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True
