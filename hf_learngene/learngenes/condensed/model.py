"""The condensed learngene: ours. After the calibrated shrink (docs/calibrated.md) and exact growth (LEMON, arXiv 2310.07999)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import TensorInfo, anatomy_of
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.condensed.config import SHARE, CondensedConfig, check_share
from hf_learngene.learngenes.condensed.core_sizes import core_sizes
from hf_learngene.learngenes.condensed.nested import in_nested_order, nested_pass
from hf_learngene.learngenes.growth import OWN, check_layers
from hf_learngene.learngenes.parts import Target
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.maps import apply
from hf_learngene.resizing import resize
from hf_learngene.resizing.calibrating import examples_of
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.sizes import check_names
from hf_learngene.resizing.spec import AUTO, ResizeSpec


class CondensedLearngene(Learngene):
    """A core: the ancestry shrunk by `calibrated`, stored whole. It works as it is, and so does every size made of it.

    `initialize` makes smaller sizes by a calibrated shrink of the core, on made-up examples or on given ones, and larger ones by
    exact growth. `weights(config)`, which training uses, needs no examples, and is differentiable: exact growth, and for what
    shrinks, the first parts of the core, which is sorted by what would leave it first; `initialize(calibration=None)` gives that.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_learngene import AutoLearngene
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 3}
        >>> vit = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **sizes)).eval()
        >>> learngene = AutoLearngene.from_ancestry(vit, "condensed", intermediate_size=24)
        >>> [learngene.initialize(num_hidden_layers=depth).config.num_hidden_layers for depth in (2, 5)]
        [2, 5]
    """

    config_class = CondensedConfig
    config: CondensedConfig
    changes_width = True
    default_calibration: ClassVar[Any] = AUTO

    def __init__(self, config: CondensedConfig) -> None:
        super().__init__(config)
        self._known: dict[str, list[Pass]] = {}

    # ---- parameters: every layer's own

    def make(self, template: str, info: TensorInfo) -> None:
        for layer in self._layers(template):
            self.add_shared(template, str(layer), *info.shape)

    def draw(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        self.fit(template, info, stack)

    def fit(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        for layer in self._layers(template):
            self.part(template, str(layer)).copy_(stack[layer])

    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]:
        stored = self._layers(template)  # nothing reads what stands for the others
        nearest = [min(stored, key=lambda one: abs(one - layer)) for layer in range(self.anatomy.num_layers)]
        return [self.part(template, str(layer)) for layer in nearest]

    def _layers(self, template: str) -> list[int]:
        """Layers that have this tensor: ModernBERT's first has no norm before its attention, WavLM's first alone a table."""
        return [layer for layer in range(self.anatomy.num_layers) if template.format(layer) in self.anatomy.tensors]

    @property
    def stored_share(self) -> float:
        """Parameters kept, as a share of the ancestry's, where they are known, else of its own core's."""
        kept = sum(p.numel() for tree in (self.shared, self.outside) for p in tree.parameters())
        return kept / (self.config.ancestry_parameters or self.anatomy.num_parameters)

    # ---- sizes

    @classmethod
    def auxiliary_of(
        cls,
        ancestry: PreTrainedModel,
        sizes: Mapping[str, Any],
        options: Mapping[str, Any],
        seed: int,
        examples: Mapping[str, Any],
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The core: the ancestry at sizes that are given or follow from `stored_share`, by a calibrated shrink, and sorted."""
        anatomy = anatomy_of(ancestry.config, type(ancestry))
        wanted = check_names(anatomy, sizes)
        share = options.get("stored_share")
        check_share(share)
        if share is not None or not wanted:
            wanted = core_sizes(anatomy, share if share is not None else SHARE, wanted)
        core = resize(ancestry, seed=seed, **examples, **wanted) if wanted else ancestry
        refused = anatomy.shared_layers  # by what every kind asks of a family, when it is made
        if refused or not options.get("nested", True) or examples["calibration"] is None:
            return core, {}
        with examples_of(ResizeSpec.parse({}, seed=seed, **examples), core) as seen:
            try:
                nested, order = in_nested_order(core, seen)
            except UnsupportedFamilyError as error:
                raise UnsupportedFamilyError(f"{error} nested=False leaves the core unsorted.") from error
        return nested, {"order": order}

    def config_at(self, own: Mapping[str, Any]) -> PreTrainedConfig:
        return self._plan(own).target_config

    def _check_target(self, target: Target) -> None:
        check_layers(cast(LearngeneLike, self), target)
        self._passes(target)

    def _plan(self, sizes: Mapping[str, Any]) -> Plan:
        return make_plan(self.base, self.base_class, ResizeSpec.parse(sizes, calibration=None))

    def _passes(self, target: Target) -> list[Pass]:
        """The passes of a resize without examples that lead from the core to the target."""
        own, sizes = self.anatomy.sizes, target.anatomy.sizes
        key = target.config.to_json_string(use_diff=False)
        if key not in self._known:
            changed = {name for name, size in own.items() if sizes.get(name, size) != size}
            # what is left out would follow the width's proportions
            follows = {n for n in OWN if n in sizes and (n != "head_dim" or self.anatomy.head_dim_honoured)}
            wanted = {n: sizes[n] for n in sizes if n in changed | follows}
            passes = self._plan(wanted).passes if changed else ()
            order = self.config.order
            self._known[key] = [nested_pass(p, order) if order and p.method.shrinks else p for p in passes]
        return self._known[key]

    # ---- weights

    def weights(self, config: PreTrainedConfig | None = None, *, target: Target | None = None) -> dict[str, Tensor]:
        target = target if target is not None else self.target(config)
        anatomy, state = self.anatomy, dict[str, Tensor]()
        for name, info in anatomy.tensors.items():
            state[name] = self.outside.take(name) if info.layer is None else self.part(info.template, str(info.layer))
        for step in self._passes(target):
            tied = {name: state[first] for name, first in anatomy.ties.items()}
            state = dict(apply({**state, **tied}, step.recipes, step.task.seed, share=True))
            anatomy = step.task.target
        return state


__all__ = ["CondensedLearngene"]
