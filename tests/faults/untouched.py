"""What a resize leaves alone: its source, and all that the process shares."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging


@contextlib.contextmanager
def untouched(source: PreTrainedModel, training: bool) -> Iterator[None]:
    """Fails if the source is changed inside, or anything that the process shares."""
    source.train(training)
    try:
        before, config = _state(source), source.config.to_json_string()
        weights = {n: t.clone() for n, t in source.state_dict().items()}
        yield
        after = _state(source)
        for name, value in before.items():
            assert after[name] == value, f"{name} is another: {value!r:.200}, then {after[name]!r:.200}"
        assert source.config.to_json_string() == config, "the source's config is another"
        same(source.state_dict(), weights, "the source")
    finally:
        source.eval()


def _state(source: PreTrainedModel) -> dict[str, Any]:
    numpy_ = np.random.get_state()
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": (numpy_[1].tobytes(), numpy_[2:]),
        "python's random state": random.getstate(),
        "the default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "verbosity": (logging.get_verbosity(), logging.is_progress_bar_enabled()),
        "the source's modes": [m.training for m in source.modules()],
        "the source's parameters": [
            (p.requires_grad, p.grad is None, p.dtype, p.data_ptr()) for p in source.parameters()
        ],
        "torch.nn.init": torch.nn.init.normal_.__code__,
    }


def same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    assert found.keys() == wanted.keys(), f"{what}: {sorted(found.keys() ^ wanted.keys())}"
    for name, tensor in wanted.items():
        equal = torch.equal(found[name], tensor) or torch.equal(found[name].nan_to_num(), tensor.nan_to_num())
        assert found[name].dtype == tensor.dtype, f"{what}: `{name}` is {found[name].dtype}, not {tensor.dtype}"
        assert equal, f"{what}: `{name}` is another"
