"""Sites of the refit of a hierarchy: its matrices and norms in order of execution, each beside the source's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN
from hf_learngene.maps.selection import Selection
from hf_learngene.pruning.activations import stages_of_layers
from hf_learngene.pruning.landing import Landing, landing_of
from hf_learngene.pruning.running import execution_order


_READ = (HIDDEN, HEADS, FFN)


@dataclass(frozen=True, eq=False)
class StageSite:
    """One module of the target, and the source's module whose part it takes.

    Attributes:
        name: name of the target's module.
        source: name of the source's module.
        info: the source's weight, with the axes of its stage under their plain names.
        stage: the stage that it belongs to.
        source_layer: the source's layer in that stage; None outside the layers.
        before: how many layers of the target run before it, of all stages, and of the source.
        landing: where what it gives lands in the output of its layer, if it is the last that writes there.
        goal: the source's layer whose output that of the target's layer is to be.
        touched: whether the target has it of another size, or its layer stands before layers that have left.
    """

    name: str
    source: str
    info: TensorInfo
    stage: int
    source_layer: int | None
    before: tuple[int, int]
    landing: Landing | None = None
    goal: str = ""
    touched: bool = False

    @property
    def is_norm(self) -> bool:
        """Whether the site is a norm, and no matrix."""
        return self.info.kind == "norm"


def stage_sites(
    source: PreTrainedModel,
    source_anatomy: Anatomy,
    target: PreTrainedModel,
    target_anatomy: Anatomy,
    selection: Selection,
    batch: Mapping[str, Tensor],
) -> list[StageSite]:
    """Sites of every matrix and norm of a smaller hierarchy, in order of execution.

    Matrices are linear layers, and convolutions of one group that read the width: depthwise ones stay as they were taken, and
    so does what reads pixels.

    Args:
        source: the model that was pruned.
        source_anatomy: its anatomy.
        target: the pruned model.
        target_anatomy: its anatomy.
        selection: what is kept of the source, stage by stage.
        batch: an example of the model's inputs.
    """
    weights = {
        info.module: info
        for info in target_anatomy.tensors.values()
        if info.name == f"{info.module}.weight" and _is_site(info, target.get_submodule(info.module))
    }
    order = execution_order(target, batch, weights)
    layers, theirs = stages_of_layers(target_anatomy), stages_of_layers(source_anatomy)
    landings = _landings(target, [name for stage in layers for name in stage], order, weights, batch)
    found = []
    for place, name in enumerate(order):
        info = weights[name]
        stage, picked = info.stage or 0, selection.stages[info.stage or 0].layers
        layer = picked[info.layer] if info.layer is not None else None
        origin = name if layer is None else info.template.format(layer).rpartition(".")[0]
        old = source_anatomy.of_stage(stage).tensors[f"{origin}.weight"]
        landing = landings.get(name)
        goal, leaves = "", False
        if landing is not None and info.layer is not None:
            following = picked[info.layer + 1] if info.layer + 1 < len(picked) else len(theirs[stage])
            goal, leaves = theirs[stage][following - 1], following - 1 != layer
        before = _before(weights, order, place, layers, theirs, selection)
        touched = old.shape != info.shape or leaves
        found.append(StageSite(name, origin, old, stage, layer, before, landing, goal, touched))
    return found


def _is_site(info: TensorInfo, module: nn.Module) -> bool:
    if info.kind == "norm":
        return info.dims[0].axis == HIDDEN
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and info.dims[1].axis in _READ
    return isinstance(module, nn.Linear) and info.kind == "linear" and info.dims[1].axis in _READ


def _landings(
    target: PreTrainedModel,
    layers: Sequence[str],
    order: Sequence[str],
    weights: Mapping[str, TensorInfo],
    batch: Mapping[str, Tensor],
) -> dict[str, Landing]:
    """By the name of the module that lands."""
    found = {}
    for layer in layers:
        inside = [n for n in order if n.startswith(f"{layer}.") and _writes(weights[n])]
        landing = landing_of(target, layer, inside[-2:], batch)  # what stands further ahead, others build on
        if landing is not None:
            found[landing.writer] = landing
    return found


def _writes(info: TensorInfo) -> bool:
    """Whether a module may write the residual stream: a norm is tried too, for one may stand behind the matrix (Swin v2)."""
    return info.writes_stream or info.kind == "norm"


def _before(
    weights: Mapping[str, TensorInfo],
    order: Sequence[str],
    place: int,
    layers: Sequence[Sequence[str]],
    theirs: Sequence[Sequence[str]],
    selection: Selection,
) -> tuple[int, int]:
    """How many layers of all stages run before a site, of the target and of the source."""
    info = weights[order[place]]
    if info.layer is None:
        later = next(_inside(weights, order[place + 1 :]), None)
        earlier = next(_inside(weights, reversed(order[:place])), None)
        if earlier is None:
            return 0, 0
        if later is None or later.stage != earlier.stage:
            done = (earlier.stage or 0) + 1
            return sum(map(len, layers[:done])), sum(map(len, theirs[:done]))
        info = later
    stage, layer = info.stage or 0, info.layer or 0
    return (
        sum(map(len, layers[:stage])) + layer,
        sum(map(len, theirs[:stage])) + selection.stages[stage].layers[layer],
    )


def _inside(weights: Mapping[str, TensorInfo], names: Sequence[str] | Iterator[str]) -> Iterator[TensorInfo]:
    return (weights[name] for name in names if weights[name].layer is not None)


def rows_kept(site: StageSite, selection: Selection, rows: Tensor) -> Tensor:
    """What the source gives at a site, (tokens, outputs), as the target is to have it.

    Args:
        site: where.
        selection: what is kept, of the site's stage.
        rows: the source's, channels last.
    """
    return selection.take(rows, site.info.dims[0], site.source_layer, site.info.role)


__all__ = ["StageSite", "rows_kept", "stage_sites"]
