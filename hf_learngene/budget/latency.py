"""Time of one forward pass on this machine: measured, and fitted so that it can be told for any sizes."""

from __future__ import annotations

import copy
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.inputs import example_inputs
from hf_learngene.anatomy.probe import build
from hf_learngene.budget.flops import TOKENS
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.state import exclusive, seeded


ROUNDS = 15  # of which each runs both models once
SECONDS = 6.0  # after which no further round starts, once there are five
MARGIN = 1.02  # what was measured counts for so much more, since another measurement differs

Sizes = Mapping[str, Any]


class Stopwatch:
    """Times models of one class on the CPU against their source, in turns: what slows the machine slows both.

    Random weights from a seed, batch 1, an image of the config's size or a text of 128 tokens, as many threads as torch has now.
    Models are made for each measurement, and none is kept: a stopwatch holds numbers.

    Args:
        config: of the source.
        model_class: of the source and whatever is timed.

    Attributes:
        seconds: the source's time, the median of its runs.
    """

    def __init__(self, config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> None:
        self.config, self.model_class = copy.deepcopy(config), model_class
        self.seconds = statistics.median(_times([_runner(config, model_class)])[0])
        self._known: dict[str, float] = {}

    def time(self, config: PreTrainedConfig) -> float:
        """Seconds of a model: the source's, times the median ratio of the two in turns. Measured once for each config."""
        key = config.to_json_string()
        if key not in self._known:
            own, other = _times([_runner(c, self.model_class) for c in (self.config, config)])
            self._known[key] = self.seconds * statistics.median(b / a for a, b in zip(own, other, strict=True))
        return self._known[key]


_WATCHES: OrderedDict[tuple[str, type[PreTrainedModel], int], Stopwatch] = OrderedDict()
_MOST_WATCHES = 64


def stopwatch(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> Stopwatch:
    """The stopwatch of a source. What it measured holds for this process, so that a plan and its resize agree."""
    key = config.to_json_string(), model_class, torch.get_num_threads()
    if key not in _WATCHES:
        _WATCHES[key] = Stopwatch(config, model_class)
        while len(_WATCHES) > _MOST_WATCHES:
            _WATCHES.popitem(last=False)
    return _WATCHES[key]


def fitted(
    known: Iterable[tuple[Sizes, float]], features: Callable[[Sizes], tuple[float, ...]]
) -> Callable[[Sizes], float]:
    """A function from sizes to seconds: a sum of features, none of them with a negative weight, fitted to what was measured.

    Args:
        known: pairs of sizes and seconds.
        features: of sizes, such as a constant, the depth and the FLOPs.
    """
    sizes, seconds = zip(*known, strict=True)
    rows = torch.tensor([features(s) for s in sizes], dtype=torch.float64)
    relative = rows / torch.tensor(seconds, dtype=torch.float64)[:, None]
    scale = relative.abs().amax(0).clamp_min(1e-30)
    kept = list(range(rows.shape[1]))
    while True:
        columns = (relative / scale)[:, kept]
        found = torch.linalg.lstsq(columns, torch.ones(len(rows), 1, dtype=torch.float64), driver="gelsd").solution[
            :, 0
        ]
        if len(kept) == 1 or bool((found >= 0).all()):
            break
        del kept[int(found.argmin())]
    weights = torch.zeros(rows.shape[1], dtype=torch.float64)
    weights[kept] = found / scale[kept]
    told: list[float] = weights.tolist()
    return lambda at: sum(w * x for w, x in zip(told, features(at), strict=True))


def _runner(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> Callable[[], Any]:
    with exclusive():
        model = build(model_class, copy.deepcopy(config), "cpu").float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02, generator=generator)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.nan_to_num_()
    inputs = example_inputs(model, model.config, "cpu", TOKENS)
    try:
        with torch.inference_mode(), seeded(0):
            model(**inputs)
    except Exception as error:  # any class of error may come from a family's own code
        raise UnsupportedFamilyError(
            f"{model_class.__name__} cannot be timed: it does not run on an image of its size or a text of {TOKENS} tokens "
            f"({error}). Give params= or sizes instead."
        ) from error

    def run() -> None:
        with torch.inference_mode(), seeded(0):
            model(**inputs)

    return run


def _times(runs: list[Callable[[], Any]]) -> list[list[float]]:
    """Seconds of each of some functions, run in turns."""
    found: list[list[float]] = [[] for _ in runs]
    began = time.perf_counter()
    for number in range(-2, ROUNDS):  # the first two warm up
        if number >= 5 and time.perf_counter() - began > SECONDS:
            break
        for run, times in zip(runs, found, strict=True):
            start = time.perf_counter()
            run()
            if number >= 0:
                times.append(time.perf_counter() - start)
    return found


__all__ = ["MARGIN", "Stopwatch", "fitted", "stopwatch"]
