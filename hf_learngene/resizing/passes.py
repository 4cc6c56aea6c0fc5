"""`Pass`: one method, from one config to another. A mixed resize has two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy, anatomy_like, anatomy_of
from hf_learngene.anatomy.config_fields import as_pair, section
from hf_learngene.anatomy.stages import sizes_of_stage
from hf_learngene.errors import InvalidSizeError, LearngeneError
from hf_learngene.maps import LayerMap, TensorRecipe
from hf_learngene.maps.selection import Selection
from hf_learngene.maps.task import ResizeTask, own_axes
from hf_learngene.methods import Method
from hf_learngene.resizing.composed import check_counted_together, check_parts_of_the_width
from hf_learngene.resizing.near_widths import near_widths
from hf_learngene.resizing.sizes import describe, raw_sizes, target_config
from hf_learngene.vocabulary.rows import Vocabulary, check_padding, renumbered


@dataclass(frozen=True, eq=False)
class Pass:
    """One method from the size of one config to that of another.

    Attributes:
        method: fills widths and depth.
        sizes: of the target, by canonical name, all of them.
        source_config: it starts from, and `config`: it leads to.
        model_class: of both.
        task: the same as the methods see it.
        vocabulary: which tokens are kept; None where that is not asked.
    """

    method: Method
    sizes: Mapping[str, Any]
    source_config: PreTrainedConfig
    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    task: ResizeTask
    vocabulary: Vocabulary | None = None

    @property
    def section(self) -> str:
        """The nested config whose sizes it changes, or the empty string."""
        return self.task.source.section

    @cached_property
    def recipes(self) -> tuple[TensorRecipe, ...]:
        """One recipe for each tensor of the target, built once, when it is first asked for."""
        return tuple(self.method.recipes(self.task))

    def without(self, missing: frozenset[str]) -> Pass:
        """The same pass, taking nothing from tensors that the checkpoint did not hold."""
        return dataclasses.replace(self, task=dataclasses.replace(self.task, missing=missing))

    def keeping(self, selection: Selection) -> Pass:
        """The same pass, keeping what was selected: the config's lists over layers follow the layers."""
        made = make_pass(
            self.method,
            self.source_config,
            self.model_class,
            self.sizes,
            seed=self.task.seed,
            missing=self.task.missing,
            vocabulary=self.vocabulary,
            layers=tuple(map(LayerMap.pick, selection.kept_layers if selection.stages else [selection.layers])),
            section_of=self.section,
        )
        return dataclasses.replace(made, task=dataclasses.replace(made.task, selection=selection))

    def towards(self, config: PreTrainedConfig) -> Pass:
        """The same method towards another config of the source's family."""
        target = anatomy_like(self.task.source, config, self.model_class)
        self.method.check_stages(self.task.source, target.sizes)
        maps = self.method.depth_maps(self.task.source, target.sizes)
        task = dataclasses.replace(
            self.task, target=target, **_in_depth(target, maps), selection=None, patches=_patches(self, config)
        )
        return dataclasses.replace(self, sizes=target.sizes, config=config, task=task)


def make_pass(
    method: Method,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    sizes: Mapping[str, Any],
    *,
    seed: int = 0,
    missing: frozenset[str] = frozenset(),
    vocabulary: Vocabulary | None = None,
    layers: tuple[LayerMap, ...] | None = None,
    source: Anatomy | None = None,
    build: Callable[[PreTrainedConfig], PreTrainedModel] | None = None,
    section_of: str | None = None,
) -> Pass:
    """The pass of a method from the size of `config` to `sizes`, and to the tokens of a vocabulary.

    Args:
        method: fills widths and depth.
        config: of the source.
        model_class: of source and target.
        sizes: of the target, all of them.
        seed: for every random number.
        missing: source tensors that the checkpoint did not hold.
        vocabulary: which tokens are kept.
        layers: where each target layer comes from, stage by stage in a hierarchy, if it is not the method's own rule.
        source: the source's anatomy; default: what probing finds.
        build: makes the target, where it is run on the spot: nothing is tried then.
        section_of: the nested config whose sizes change, of a class that builds from several.

    Raises:
        LearngeneError: sizes that the method or the family cannot have.
    """
    source = source or anatomy_of(config, model_class, section_of)
    method.check_stages(source, sizes)
    if not source.num_stages:
        check_parts_of_the_width(source, sizes)
    maps = layers if layers is not None else method.depth_maps(source, sizes)
    part = section(config, source.section)
    numbered = config if vocabulary is None else renumbered(config, vocabulary, source.sizes["vocab_size"])

    def config_of(its_sizes: Mapping[str, Any]) -> PreTrainedConfig:
        edits: dict[str, Any] = {}
        for own, inner in zip(source.parts, _by_part(source, its_sizes), strict=True):
            edits |= method.edits(own, inner, part.to_dict())
        return target_config(numbered, source, its_sizes, maps[0], edits)

    def works(its_sizes: Mapping[str, Any]) -> bool:
        try:
            anatomy_like(source, config_of(its_sizes), model_class)
        except Exception:  # as whatever is refused below
            return False
        return True

    def nearest() -> str:
        return near_widths(source, sizes, works) if build is None else ""

    new_config = config_of(sizes)
    try:
        target = anatomy_like(source, new_config, model_class, build(new_config) if build is not None else None)
        if vocabulary is not None:
            check_padding(vocabulary, target, new_config, model_class)
    except InvalidSizeError as error:
        raise InvalidSizeError(f"{_sentence(error)}{nearest() or _own_widths(source, part, sizes)}") from error
    except LearngeneError:
        raise
    except Exception as error:  # the family's own checks, such as a table that ends before its padding index
        change = describe(sizes, {**source.sizes, **raw_sizes(config, source, sizes)})
        raise InvalidSizeError(
            f"`{source.model_type}` cannot be built with {change}: {_sentence(error)}{nearest()}"
        ) from error
    if not (method.proved and method.exact):  # such a growth is proved
        check_counted_together(source, target)
    patches = None
    if source.grid is not None:
        patches = as_pair(part.patch_size), as_pair(section(new_config, source.section).patch_size)
    task = ResizeTask(
        source,
        target,
        seed=seed,
        std=float(getattr(part, "initializer_range", 0.02) or 0.02),
        patches=patches,
        tokens=vocabulary.rows if vocabulary is not None else None,
        position_rows=vocabulary.position_rows if vocabulary is not None else {},
        missing=missing,
        **_in_depth(source, maps),
    )
    return Pass(method, sizes, config, new_config, model_class, task, vocabulary)


def _in_depth(anatomy: Anatomy, maps: tuple[LayerMap, ...]) -> dict[str, Any]:
    """The fields of a task that say where its layers come from."""
    return {"layer_map": LayerMap(()), "stage_maps": maps} if anatomy.num_stages else {"layer_map": maps[0]}


def _by_part(source: Anatomy, sizes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sizes of each stage; of a model without stages, all of them."""
    return [sizes_of_stage(sizes, stage) for stage in range(source.num_stages)] or [sizes]


def _sentence(error: Exception) -> str:
    """What an error says, with a full stop."""
    return f"{str(error).rstrip().rstrip('.')}."


def _own_widths(source: Anatomy, part: PreTrainedConfig, sizes: Mapping[str, Any]) -> str:
    """The widths that only this family has and that stay as they are, for a message (LayoutLMv3's add up to its width)."""
    kept = {
        axis: getattr(part, source.fields.get(axis, axis), None) for axis in sorted(own_axes(source) - sizes.keys())
    }
    named = ", ".join(f"{axis}={value}" for axis, value in kept.items() if isinstance(value, int))
    if not named or sizes.get("hidden_size") == source.sizes.get("hidden_size"):
        return ""
    return f" Widths of the family's own stay as they are ({named}), and may have to add up to hidden_size."


def _patches(step: Pass, config: PreTrainedConfig) -> tuple[tuple[int, int], tuple[int, int]] | None:
    if step.task.patches is None:
        return None
    return step.task.patches[0], as_pair(section(config, step.task.source.section).patch_size)
