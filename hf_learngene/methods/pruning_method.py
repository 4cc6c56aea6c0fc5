"""What the methods share that choose what they keep by weights or calibration examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import HEADS, KV_HEADS
from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.shares import agree, shared
from hf_learngene.errors import CalibrationError, DirectionError, InvalidSizeError, UnsupportedFamilyError
from hf_learngene.maps import LayerMap, Op, Take
from hf_learngene.maps.convolutions import takes
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import Keep, Selection
from hf_learngene.maps.task import WIDTHS, ResizeTask, WidthChange, changes, in_stream, shown, source_axes
from hf_learngene.methods.base import Method
from hf_learngene.pruning.criteria import Scores
from hf_learngene.pruning.moments import RIDGE
from hf_learngene.pruning.refit import Fitted, Refit
from hf_learngene.pruning.stage_refit import StageRefit
from hf_learngene.pruning.targets import check_head_size


@dataclass(frozen=True)
class PruningMethod(Method):
    """The base of the methods that prune by what they see of weights or examples: `score` is all that a ranking says.

    A plan, which reads no weights, shows evenly spaced entries and layers in place of those that will be chosen. Where `refits`
    says so, what is kept is then fitted to what the source computes on the examples.
    """

    shrinks: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    within_stages: ClassVar[bool] = False  # of a hierarchy

    def score(
        self, model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool = False
    ) -> Scores:
        """How much each layer, head, unit and entry of the residual stream matters; the highest are kept.

        Args:
            model: the source.
            anatomy: its own.
            examples: calibration examples; never None for a method that `needs_examples`.
            disable_progress: no progress bar.
        """
        raise TypeError(f"{type(self).__name__} does not say what it scores by")

    def select(
        self, task: ResizeTask, model: PreTrainedModel, examples: Batches | None, disable_progress: bool = False
    ) -> Selection:
        """What is kept: the layers of the highest scores, then widths, heads and units in those."""
        scores = self.score(model, task.source, self.required(examples), disable_progress)
        if prunes_layers(task):
            task = with_layers(task, scores.kept_layers(task.target.num_layers))
        return scores.selection(task)

    def required(self, examples: Batches | None) -> Batches:
        """The examples; there are none only for a method that does not need any.

        Raises:
            CalibrationError: there are none.
        """
        if examples is None and self.needs_examples:
            labels = "with" if self.needs_labels else "without"
            raise CalibrationError(
                f"method={self.name!r} needs examples: give calibration=, a few hundred of the model's kind, {labels} labels."
            )
        return cast(Batches, examples)

    def refine(
        self,
        task: ResizeTask,
        source: PreTrainedModel,
        target: PreTrainedModel,
        examples: Batches | None,
        disable_progress: bool = False,
    ) -> list[Fitted]:
        """The refit of every matrix and norm, where this method refits and anything was pruned."""
        if not self.refits or examples is None or task.selection is None:
            return []
        if not changes(task.source, task.target.sizes, task.source.sizes):
            return []  # fitted to themselves, weights would only be rounded
        with shared(examples) as mine:
            kind = StageRefit if task.stage_maps else Refit
            refit = kind(source, task.source, target, task.target, task.selection, mine, self.refit_ridge)
            fitted = refit.run(disable_progress=disable_progress)
            agree(target)
        return fitted

    @property
    def refit_ridge(self) -> float:
        """How strongly the refit keeps weights as they are where the examples say little."""
        return RIDGE

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        if source.stage is not None and not self.within_stages:
            raise UnsupportedFamilyError(
                f"method={self.name!r} ranks one residual stream, and a hierarchy has one in each stage. "
                "method='calibrated' shrinks stage by stage, and without examples 'weight_selection', 'front' and 'layers'."
            )
        beside = _norm_of_several(source)
        if beside is not None:
            raise UnsupportedFamilyError(
                f"method={self.name!r} ranks one residual stream, and `{source.model_type}` carries several side by side "
                f"(`{beside}` normalises them together). method='weight_selection' shrinks it."
            )
        if source.composed_layers:
            raise InvalidSizeError(
                f"{self.name} looks at what goes on inside the layers, and in `{source.model_type}` "
                f"{' and '.join(source.composed_layers)} count a width there in a way of their own. "
                "method='weight_selection' shrinks its depth and what is left of its sizes."
            )
        names = (*WIDTHS, "mlp_ratio", "num_hidden_layers", *source_axes(source))
        grown = {n: (old, new) for n, (old, new) in changes(source, sizes, names).items() if new > old}
        if "head_dim" in grown and sizes["num_attention_heads"] < source.sizes["num_attention_heads"]:
            heads, size = source.sizes["num_attention_heads"], source.sizes["head_dim"]
            fewer, larger = sizes["num_attention_heads"], sizes["head_dim"]
            whole = f"head_dim={size}" if source.head_dim_honoured else f"hidden_size={fewer * size}"
            raise DirectionError(
                f"{self.name} keeps heads whole: {heads} of {size} cannot become {fewer} of {larger}. Give {whole} too, or use "
                "method='weight_selection', which cuts the same entries into other heads."
            )
        if grown:
            raise DirectionError(
                f"{self.name} shrinks; it cannot grow ({shown(grown)}). method='lemon' grows without loss."
            )
        heads = source.sizes.get("num_attention_heads", 1)
        group = heads // (source.sizes.get("num_key_value_heads") or heads)
        check_head_size(source, group, source.sizes.get("head_dim", 1), sizes.get("head_dim", 1))

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        return LayerMap.spread(source.num_layers, depth, source.period)

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        kept = task.selection.coordinates if task.selection is not None else None

        def channels(change: WidthChange) -> tuple[Tensor, str]:
            """What was selected of the residual stream, or evenly spaced channels."""
            index = uniform_indices(change.old, change.new) if kept is None else kept
            return index, f"selected {change.new} of {change.old}"

        return takes(tensor, task, channels, lambda change: self.keep(tensor, change, task))

    def keep(self, tensor: TensorInfo, change: WidthChange, task: ResizeTask) -> Op:
        """The op that keeps what was selected of one dimension, or evenly spaced entries where nothing was."""
        label, selection, dim = f"selected {change.new} of {change.old}", task.selection, tensor.dims[change.dim]
        if selection is not None and dim.stage is not None:  # the width of another stage, which a patch merging reads
            selection, dim = selection.of_stage(dim.stage), dataclasses.replace(dim, stage=None)
        place = task.target.layer_of(tensor)
        layer = task.layer_map[place].index if place is not None else None
        inside = in_stream(tensor, change.side)
        projected = selection is not None and layer in selection.inside and change.axis in (HEADS, KV_HEADS)
        if selection is None or (selection.index(change.axis, layer, inside) is None and not projected):
            return Take(task.blocks(tensor, change.dim), uniform_indices(change.old, change.new), label)
        role = "o" if change.side == "in" else tensor.role
        return Keep(selection, change.dim, dim, layer, role, inside, label)


def _norm_of_several(source: Anatomy) -> str | None:
    """The norm behind the layers that runs over several residual streams side by side (Reformer); a head may have its own."""
    if source.stage is not None:  # a patch merging normalises what it has put side by side
        return None
    templates = source.templates.values()
    encoders = {t.template.partition("{}")[0].rstrip(".").rpartition(".")[0] for t in templates if "{}" in t.template}
    wide = (t for t in templates if t.kind == "norm" and t.dims[0].parts > 1)
    return next((t.template for t in wide if t.module.rpartition(".")[0] in encoders), None)


def prunes_layers(task: ResizeTask) -> bool:
    """Whether there are fewer layers to keep than the source has of its own."""
    return task.target.num_layers < task.source.num_layers and not task.source.shared_layers


def with_layers(task: ResizeTask, layers: tuple[int, ...]) -> ResizeTask:
    """The same task, keeping these layers of the source."""
    return task.with_layers(LayerMap.pick(layers))


__all__ = ["PruningMethod", "prunes_layers", "with_layers"]
