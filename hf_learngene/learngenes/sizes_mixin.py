"""Which sizes a learngene makes, and what it refuses to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from transformers import PreTrainedConfig

from hf_learngene.anatomy import TensorInfo, anatomy_like
from hf_learngene.anatomy.stages import listed
from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes import growth
from hf_learngene.learngenes.parts import Target
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.learngenes.series import length_of, recorded
from hf_learngene.resizing.sizes import complete


class SizesMixin:
    """Targets of a learngene: sizes by canonical name, their configs, and what is refused."""

    changes_width: ClassVar[bool] = False
    has_stages: ClassVar[bool] = False
    _targets: dict[str, Target]

    # ---- for subclasses

    def rounded(self, sizes: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        """Sizes that were not asked for, moved to the nearest that this learngene can make."""
        return sizes

    def check_target(self, target: Target) -> None:
        """Refuses sizes that this learngene cannot make, naming those it can."""

    # ---- targets

    def target(self, config: PreTrainedConfig | None = None, stages: Sequence[int] | None = None) -> Target:
        """The size that `config` asks for; without one, the auxiliary model's own.

        Raises:
            InvalidSizeError: a size that this learngene cannot make.
        """
        own = cast(LearngeneLike, self)
        config = config if config is not None else own.base
        key = f"{config.to_json_string(use_diff=False)}|{stages}"
        if key not in self._targets:
            anatomy = anatomy_like(own.anatomy, config, own.base_class) if config is not own.base else own.anatomy
            made = Target(config, anatomy, own.anatomy, tuple(stages) if stages is not None else None)
            self._check_target(made)
            self._targets[key] = made
        return self._targets[key]

    def config_at(self, own: Mapping[str, Any]) -> PreTrainedConfig:
        """Config of a descendant, from sizes of a learngene's own axes by canonical name."""
        learngene = cast(LearngeneLike, self)
        sizes = self.rounded(complete(learngene.anatomy, learngene.base, own), own)
        return growth.config_at(learngene.base, learngene.anatomy, sizes)

    def check_sizes(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Sizes by canonical name.

        Raises:
            InvalidSizeError: a size that this learngene cannot make.
        """
        anatomy = cast(LearngeneLike, self).anatomy
        own, rest = growth.split_sizes(anatomy, sizes)
        self.target(self.config_at(own))
        return {**recorded(anatomy, own), **rest}

    def depth_of(self, stage: int | None) -> int:
        """Places of a stage's components in the auxiliary model; without stages, its depth."""
        return length_of(cast(LearngeneLike, self).anatomy, stage)

    def depth_scale(self, info: TensorInfo, target: Target) -> float:
        """Factor for what a layer writes to the residual stream, below 1 in models deeper than the auxiliary one.

        A layer is one step along a path; more layers take shorter steps. None of the papers does this. A stage of a hierarchy is
        a path of its own.
        """
        learngene = cast(LearngeneLike, self)
        own, other = (anatomy.of_stage(info.stage) for anatomy in (learngene.anatomy, target.anatomy))
        ratio = (own.num_layers - own.lead) / (other.num_layers - other.lead)
        if ratio >= 1 or not learngene.config.depth_scale or not self.writes_a_step(info):
            return 1.0
        return ratio**0.5 if own.post_norm else ratio

    def writes_a_step(self, info: TensorInfo) -> bool:
        """Whether a layer's step along the residual stream is as long as what this tensor writes."""
        learngene = cast(LearngeneLike, self)
        if info.stage is None:
            return info.writes_stream and not info.kind.startswith("norm")
        part = learngene.anatomy.of_stage(info.stage)
        # PoolFormer has a factor of each branch, and nothing else in a branch that pools
        if any(t.kind == "token" and t.layer is not None and t.writes_stream for t in part.tensors.values()):
            return info.kind == "token" and info.writes_stream
        if info.kind.startswith("norm"):  # Swin v2's, between what a branch writes and the stream
            module = learngene.components[info.template].module
            return any(n.name == module and n.writes_stream and n.reads == {"writer"} for n in part.norms)
        return info.writes_stream and not info.inner  # what only a norm reads is no step, however long

    def _check_target(self, target: Target) -> None:
        learngene = cast(LearngeneLike, self)
        growth.check_layers(learngene, target)
        sizes, own = target.anatomy.sizes, learngene.anatomy.sizes
        kind = learngene.config.learngene_type
        self._check_widths_of_stages(target)
        if sizes.get("head_dim") != own.get("head_dim"):
            raise InvalidSizeError(
                f"A learngene keeps heads whole: head_dim {own.get('head_dim')} → {sizes.get('head_dim')} is not possible. "
                f"Let num_attention_heads follow hidden_size."
            )
        if not target.same_width and not self.changes_width:
            widths = [n for n in ("hidden_size", "intermediate_size", "mlp_ratio") if sizes.get(n) != own.get(n)]
            asked = ", ".join(f"{n}={sizes.get(n)}" for n in widths) or "other shapes"
            raise InvalidSizeError(
                f"`{kind}` makes models of every depth at hidden_size={own['hidden_size']}; it cannot make {asked}. "
                "`wave` and `lets` change width; or initialise at this width and resize() the result."
            )
        self.check_target(target)

    def _check_widths_of_stages(self, target: Target) -> None:
        """Refuses other widths, heads or ffns of stages: `resize` proves that it grows them exactly, a learngene has no proof."""
        learngene = cast(LearngeneLike, self)
        anatomy = learngene.anatomy
        if not anatomy.num_stages:
            return
        before, after = listed(anatomy.sizes), listed(target.anatomy.sizes)
        changed = next((n for n, v in before.items() if n != "num_hidden_layers" and after.get(n) != v), None)
        if changed is None and target.same_width:
            return
        asked = f"{changed} {before[changed]} → {after.get(changed)}" if changed is not None else "another shape"
        raise InvalidSizeError(
            f"`{learngene.config.learngene_type}` makes a hierarchy of every depth and keeps its widths: {asked} is not "
            f"possible. Initialise with {anatomy.stage_fields['num_hidden_layers'].native}= alone, and resize() the result."
        )


__all__ = ["SizesMixin"]
