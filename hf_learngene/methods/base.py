"""What a method is: its options, its paper, and what it answers about a resize."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.rules import length_of
from hf_learngene.anatomy.stages import sizes_of_stage, staged
from hf_learngene.calibration.examples import Batches
from hf_learngene.errors import InvalidSizeError, LearngeneError
from hf_learngene.maps import LayerMap, Op, TensorRecipe
from hf_learngene.maps.convolutions import Lengthen
from hf_learngene.maps.geometry import geometry_ops
from hf_learngene.maps.selection import Selection
from hf_learngene.maps.task import ResizeTask
from hf_learngene.pruning.refit import Fitted


@dataclass(frozen=True)
class Paper:
    """The paper that a method comes from."""

    title: str
    arxiv: str = ""
    venue: str = ""  # "NeurIPS 2024", of a paper that is not on arXiv
    link: str = ""  # to that paper, or to its authors' code

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.link


@dataclass(frozen=True)
class Method:
    """The base of every method: a frozen dataclass whose fields are its options.

    A resize asks a method, in this order: which sizes it can make (`check`), where each target layer comes from (`depth_map`),
    what it edits in the config (`edits`), what it keeps where weights or examples decide that (`select`), how each target
    tensor is made (`recipes`, from `keeps` and `ops`), and what it does to the finished model (`refine`).

    Class variables:
        name: what callers give as `method=`.
        paper: where it comes from; None where it is ours or nobody's.
        summary: a line for tables and cards.
        grows, shrinks: the directions it can go.
        lossless: whether what it makes has the source's function.
        selects: whether weights or examples decide what is kept (`select`).
        keeps_buffers: whether saved buffers come from the source too.
        needs_examples: whether it needs `calibration=`, and `needs_labels`: with labels.
        learns: whether its recipes make but the start of a map that is trained on `train_dataset=` (a `LearnedGrowth`).
    """

    name: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    summary: ClassVar[str] = ""
    grows: ClassVar[bool] = False
    shrinks: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    keeps_buffers: ClassVar[bool] = True
    selects: ClassVar[bool] = False
    needs_examples: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    @classmethod
    def refits_with(cls, options: Mapping[str, Any]) -> bool:
        """Whether, under these options, `refine` fits weights to what the source computes on the calibration examples."""
        return False

    @property
    def refits(self) -> bool:
        """The same under its own options."""
        return self.refits_with(self.options())

    @property
    def exact(self) -> bool:
        """Whether, under its own options, what it makes has the source's function."""
        return self.lossless

    @property
    def proved(self) -> bool:
        """Whether its recipes are to keep the function where they grow, so that a plan proves them."""
        return self.lossless or self.learns

    @classmethod
    def option_names(cls) -> list[str]:
        """Names of the options, in order."""
        return [f.name for f in fields(cls)]

    def options(self) -> dict[str, Any]:
        """The options as plain data, for provenance."""
        return {name: getattr(self, name) for name in self.option_names()}

    # ---- before any weight is read

    def implied_sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes that the options themselves ask for, given the source's."""
        return {}

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        """Refuses sizes that this method cannot make. `sizes` are the target's, by canonical name."""

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        """Where each of `depth` target layers comes from."""
        return LayerMap.pick(range(depth))

    def check_stages(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        """`check` of a whole model: of a hierarchy each stage, as a model of one width and depth.

        Raises:
            LearngeneError: what `check` raises, with the stage.
        """
        if not source.num_stages:
            self.check(source, sizes)
        for stage in range(source.num_stages):
            try:
                self.check(source.of_stage(stage), sizes_of_stage(sizes, stage))
            except LearngeneError as error:
                raise type(error)(f"Stage {stage} of `{source.model_type}`: {error}") from error

    def depth_maps(self, source: Anatomy, sizes: Mapping[str, int]) -> tuple[LayerMap, ...]:
        """`depth_map` of each stage; of a model without stages, its own alone.

        Raises:
            InvalidSizeError: it would put layers of a stage where layers of another kind are.
        """
        if not source.num_stages:
            return (self.depth_map(source, sizes["num_hidden_layers"]),)
        depths = [sizes[staged("num_hidden_layers", stage)] for stage in range(source.num_stages)]
        maps = tuple(self.depth_map(part, depth) for part, depth in zip(source.parts, depths, strict=True))
        for part, layer_map in zip(source.parts, maps, strict=True):
            self._check_kinds(part, layer_map)
        return maps

    def _check_kinds(self, part: Anatomy, layer_map: LayerMap) -> None:
        """Refuses a map in which a layer of a stage takes another turn, or a first one of another kind another place."""
        kinds = {i % part.period for i in range(part.num_layers)}
        for place, layer in enumerate(layer_map):
            moved = (layer.index - place) % part.period and place % part.period in kinds and not layer.inserted
            leads = layer.index != place if place < part.lead else layer.index < part.lead
            if moved or leads:
                why = f"{part.period} kinds of layers alternate there (shifted windows), and each keeps its turn"
                if leads:
                    why = "its first layer holds the transition from the stage before, and stays where it is, once"
                raise InvalidSizeError(
                    f"Stage {part.stage} of `{part.model_type}`: method={self.name!r} would make layer {place} of layer "
                    f"{layer.index}, but {why}."
                )

    def edits(self, source: Anatomy, sizes: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, Any]:
        """Config fields that the target needs beyond its sizes. `config` is the size section as plain data."""
        return {}

    # ---- what is kept, where weights or examples decide it

    def select(
        self, task: ResizeTask, model: PreTrainedModel, examples: Batches | None, disable_progress: bool = False
    ) -> Selection | None:
        """What is kept of `model`, the source; None where the task alone says it."""
        return None

    # ---- the target's tensors

    def recipes(self, task: ResizeTask) -> Iterator[TensorRecipe]:
        """One recipe for each tensor of the target, in its order. Of a hierarchy, each is made as its stage's task says."""
        for name, tensor in task.target.tensors.items():
            yield self._recipe(name, task.of(tensor))

    def _recipe(self, name: str, task: ResizeTask) -> TensorRecipe:
        tensor = task.target.tensors[name]
        sources, reason = self._sources(tensor, task)
        ops: list[Op] = []
        if sources:
            source = task.source.tensors[sources[0][0]]
            geometry, reason = geometry_ops(source, tensor, task, self.repeats_positions())
            if geometry is None:
                sources = ()
            else:
                ops = [*geometry, *self.ops(tensor, task), *self._lengthen(source, tensor, task)]
        return TensorRecipe(name, tensor.shape, sources, tuple(ops), reason)

    def _lengthen(self, source: TensorInfo, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        """What keeps the length of a weight that is held as length and direction in step with the direction."""
        direction = task.target.tensors.get(length_of(tensor.name))
        done = self.ops(direction, task) if direction is not None else []
        return [Lengthen(length_of(source.name), length_of(tensor.name), tuple(done))] if done else []

    def keeps(self, tensor: TensorInfo, task: ResizeTask) -> bool:
        """Whether `tensor` comes from the source at all."""
        return True

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        """What is done to the widths of one target tensor, once its source layer was taken and its geometry fitted."""
        return []

    def reads_first_copy(self, tensor: TensorInfo, task: ResizeTask) -> bool:
        """Whether what reads the copies of a tensor's entries reads the first alone, and not each its share of all."""
        return False

    def repeats_positions(self) -> bool:
        """Whether a longer table over text positions keeps its rows and starts over, instead of being interpolated."""
        return False

    def _sources(self, tensor: TensorInfo, task: ResizeTask) -> tuple[tuple[tuple[str, float], ...], str]:
        """(source tensor, weight) pairs that a target tensor is summed from, or none and why."""
        if not self.keeps(tensor, task):
            return (), "initialised"
        before = task.source.tensors.get(tensor.name)
        if tensor.computed and (before is None or before.shape != tensor.shape):
            return (
                (),
                "computed",
            )  # of unchanged shape it is carried over: the source's own may differ from what is computed
        if tensor.layer is None:
            names = [(tensor.name, 1.0)]
        else:
            layer = task.layer_map[tensor.layer]
            names = [(tensor.template.format(i), weight) for i, weight in layer.sources]
            if layer.inserted and not any(n in task.source.tensors for n, _ in names):
                # ModernBERT's first layer has no norm before its attention
                names = _in_nearest_layer(tensor, layer.index, task.source)
        present = tuple((n, w) for n, w in names if n in task.source.tensors and n not in task.missing)
        if not present:
            return (), "not in the checkpoint" if any(n in task.missing for n, _ in names) else "not in the source"
        return present, ""

    # ---- the finished model

    def refine(
        self,
        task: ResizeTask,
        source: PreTrainedModel,
        target: PreTrainedModel,
        examples: Batches | None,
        disable_progress: bool = False,
    ) -> list[Fitted]:
        """Changes the finished `target` in place, and says what each step left of its distance to the source."""
        return []


def _in_nearest_layer(tensor: TensorInfo, layer: int, source: Anatomy) -> list[tuple[str, float]]:
    """The tensor of the layer nearest to one that has none."""
    others = [t for t in source.tensors.values() if t.template == tensor.template and t.layer is not None]
    nearest = min(others, key=lambda t: abs((t.layer or 0) - layer), default=None)
    return [(nearest.name, 1.0)] if nearest is not None else []


__all__ = ["Method", "Paper"]
