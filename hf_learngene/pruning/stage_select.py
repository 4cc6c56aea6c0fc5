"""Which layers, widths, heads and units of each stage of a hierarchy are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import HIDDEN
from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.held_back import cut, rows_in
from hf_learngene.calibration.weights import times_of
from hf_learngene.maps import LayerMap
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import Selection
from hf_learngene.maps.task import ResizeTask
from hf_learngene.pruning.activations import Activations, Runner, stages_of_layers
from hf_learngene.pruning.landing import landing_of
from hf_learngene.pruning.layers import kept_layers
from hf_learngene.pruning.moments import RIDGE, Moments, enough
from hf_learngene.pruning.optimal_brain_surgeon import kept_units
from hf_learngene.pruning.running import execution_order
from hf_learngene.pruning.select import CalibratedSelection
from hf_learngene.pruning.stream import NormProducts, StreamMap
from hf_learngene.state import without_autocast


@torch.no_grad()
@without_autocast()
def select_stages(
    model: PreTrainedModel, task: ResizeTask, examples: Batches, ridge: float = RIDGE, disable_progress: bool = False
) -> Selection:
    """What is kept of every stage of a hierarchy, each chosen as in a model of its own.

    Layers leave by what the model's output loses without them, heads and units by what the others of their layer cannot make up
    for, and entries of a stage's residual stream by what those that read it, the patch merging among them, cannot spare.

    Args:
        model: the source.
        task: sizes of source and target.
        examples: calibration examples.
        ridge: of the refit that follows.
        disable_progress: no progress bars.
    """
    found, past = [], 0
    streams = _streams(model, task, examples)
    with Runner(model, task.source) as runner:
        for stage, part in enumerate(task.parts):
            if part.target.num_layers < part.source.num_layers:
                depth = part.target.num_layers
                layers = kept_layers(model, part.source, depth, examples, disable_progress)
            else:
                layers = tuple(range(part.source.num_layers))
            mine = part.with_layers(LayerMap.pick(layers))
            entries = _entries(model, task, stage, streams.get(stage), ridge)
            chosen = _InStage(model, mine, examples, ridge, _Stage(runner, past), entries)
            found.append(chosen.run(disable_progress))
            past += part.source.num_layers
    return Selection(stages=tuple(found))


class _Stage:
    """A runner that counts the layers of one stage."""

    def __init__(self, runner: Runner, past: int) -> None:
        self.runner, self.past = runner, past

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """What it keeps is the next stage's too."""

    def cache_prefix(self, layers: int, batches: Iterable[Mapping[str, Tensor]]) -> None:
        self.runner.cache_prefix(self.past + layers, batches)

    def capture(
        self,
        number: int,
        batch: Mapping[str, Tensor],
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        ahead: int | None = None,
    ) -> Activations:
        return self.runner.capture(number, batch, inputs, outputs, None if ahead is None else self.past + ahead)


class _InStage(CalibratedSelection):
    """Chooses heads and units in one stage, whose entries are chosen already."""

    def __init__(
        self,
        model: PreTrainedModel,
        task: ResizeTask,
        examples: Batches,
        ridge: float,
        runner: _Stage,
        entries: Tensor | None,
    ) -> None:
        super().__init__(model, task, examples, ridge)
        self.runner, self.entries = runner, entries

    def _runner(self) -> Any:
        return self.runner

    def _norm_products(self) -> NormProducts | None:
        return None

    def _stream(self, width: int, products: NormProducts | None, disable_progress: bool) -> StreamMap:
        return StreamMap(self.entries, None, False)


def _streams(model: PreTrainedModel, task: ResizeTask, examples: Batches) -> dict[int, Moments]:
    """Products of the residual stream behind the layers of each stage that becomes narrower.

    A stage of which it cannot be told where its channels stand has none.
    """
    narrower = [s for s, part in enumerate(task.parts) if _narrows(part)]
    names = stages_of_layers(task.source)
    if not narrower or not names:
        return {}
    first = next(examples.batches())
    alone = cut(first, torch.arange(rows_in(first)) < 1)
    landings = {}
    for stage in narrower:
        for layer in names[stage]:
            writers = _writers(task.source, layer)
            landing = landing_of(model, layer, execution_order(model, alone, writers)[-2:], alone)
            if landing is not None:
                landings[layer] = stage, landing
    found: dict[int, Moments] = {}
    with Runner(model, task.source) as runner:
        for number, batch in enumerate(examples.batches()):
            outputs = runner.capture(number, batch, outputs=landings).outputs
            for layer, (stage, landing) in landings.items():
                for values in outputs[layer]:
                    found.setdefault(stage, Moments()).add(landing.stream(values), times=times_of(batch))
    return found


def _narrows(part: ResizeTask) -> bool:
    old, new = part.axis_sizes.get(HIDDEN, (0, 0))
    return new < old


def _writers(anatomy: Anatomy, layer: str) -> list[str]:
    """Modules of a layer that may be the last to write what it hands on."""
    return [
        t.module
        for t in anatomy.tensors.values()
        if t.name == f"{t.module}.weight"
        and t.module.startswith(f"{layer}.")
        and (t.writes_stream or t.kind == "norm")
    ]


def _entries(
    model: PreTrainedModel, task: ResizeTask, stage: int, seen: Moments | None, ridge: float
) -> Tensor | None:
    """Entries of a stage's residual stream that are kept; evenly spread ones where nothing was seen of it."""
    part = task.parts[stage]
    if not _narrows(part):
        return None
    old, new = part.axis_sizes[HIDDEN]
    if seen is None:
        return uniform_indices(old, new)
    enough(seen.count, new, f"entries of the residual stream of stage {stage}")
    gram = seen.gram.cpu()
    return kept_units(gram / gram.diagonal().mean(), _reads(model, task.source, stage, old), new, ridge=ridge)


def _reads(model: PreTrainedModel, anatomy: Anatomy, stage: int, width: int) -> Tensor:
    """A matrix that reads a stage's residual stream as all that reads it do together, (width, width)."""
    reads = torch.zeros(width, width, dtype=torch.float64)
    for info in anatomy.tensors.values():
        if info.kind not in ("linear", "conv") or len(info.dims) < 2:
            continue
        dim = info.dims[1]
        if (dim.axis, dim.stage, dim.side) == (HIDDEN, stage, "in"):
            weight = model.get_parameter(info.name).detach().double().movedim(1, -1).reshape(-1, width).cpu()
            gram = weight.T @ weight
            reads += gram / gram.diagonal().mean().clamp_min(1e-30)
    level = reads.diagonal().mean().clamp_min(1e-30)
    reads += torch.eye(width, dtype=torch.float64) * level  # the residual carries every entry on as it is
    return torch.linalg.cholesky(reads).T


__all__ = ["select_stages"]
