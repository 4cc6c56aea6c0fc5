"""What a learngene takes from its ancestry beside weights: how the ancestry is brought to size, and what prepares its inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy, anatomy_of
from hf_learngene.anatomy.admit import refuse_kinds
from hf_learngene.anatomy.probe import build
from hf_learngene.calibration.processing import processor_for
from hf_learngene.calibration.subset import check_size
from hf_learngene.errors import UnknownOptionError, UnsupportedFamilyError
from hf_learngene.learngenes.series import in_series
from hf_learngene.resizing import resize
from hf_learngene.resizing.sizes import check_names
from hf_learngene.state import quiet


# What `from_ancestry` and `initialize` of a learngene take, as `resize` does.
EXAMPLES = ("calibration", "processing_class", "calibration_column", "calibration_size", "calibration_top_up")


def check_read(calibration: Any, **how: Any) -> None:
    """Refuses what says how examples are read, where there are none.

    Raises:
        UnknownOptionError: names it.
    """
    given = next((name for name, value in how.items() if value is not None), None)
    if calibration is None and given is not None:
        raise UnknownOptionError(
            f"{given}= says how calibration examples are read: give calibration= too, a few hundred examples or 'synthetic'."
        )


def lasting(given: Any, size: int | None = None) -> Any:
    """Examples that can be gone over twice: of what can be read once, the first ones.

    Example:
        >>> lasting(iter("abcd"), 2), lasting("abcd")
        (['a', 'b'], 'abcd')
    """
    return list(itertools.islice(given, check_size(size))) if isinstance(given, Iterator) else given


class AncestryMixin:
    """How a learngene comes from its ancestry; for one that always looks at examples, a subclass says otherwise."""

    default_calibration: ClassVar[Any] = None  # what it looks at where the caller names nothing
    refits: ClassVar[bool] = False  # whether it is fitted once more on examples that the caller names
    within_stages: ClassVar[bool] = False  # whether it shares weights within each stage of a hierarchy
    processing_class: Any

    @classmethod
    def check_family(cls, anatomy: Anatomy) -> None:
        """Refuses a model of whose layers this kind makes nothing.

        Raises:
            UnsupportedFamilyError: says why, and which kinds do.
        """
        if anatomy.num_stages and not cls.within_stages:
            takers = ", ".join(f"`{kind}`" for kind in kinds_within_stages())
            raise UnsupportedFamilyError(
                f"`{_type(cls)}` makes layers of one width along one depth, and `{anatomy.model_type}` is a hierarchy of "
                f"{anatomy.num_stages} stages with sizes of their own. {takers} share weights within each stage; resize and plan "
                f"take {_fields(anatomy)}."
            )
        refuse_kinds(anatomy, "A learngene makes every layer of what all layers share")
        _refuse_kinds_of_stages(anatomy)

    @classmethod
    def auxiliary_of(
        cls,
        ancestry: PreTrainedModel,
        sizes: Mapping[str, Any],
        options: Mapping[str, Any],
        seed: int,
        examples: Mapping[str, Any],
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The ancestry itself, or resized: fewer layers are picked evenly, new ones change nothing; and fields of the config.

        Args:
            ancestry: the ancestry model.
            sizes: of the auxiliary model, where they differ.
            options: of the learngene.
            seed: for every number that is drawn.
            examples: keywords of `resize` that say what it looks at.
        """
        if not sizes:
            return ancestry, {}
        if examples.get("calibration") is not None:
            return resize(ancestry, seed=seed, **examples, **sizes), {}
        with quiet():
            anatomy = anatomy_of(ancestry.config, type(ancestry))
            wanted = check_names(anatomy, sizes)
            depths = all(n.partition(".")[0] == "num_hidden_layers" for n in wanted)
            if depths and all(depth <= anatomy.sizes[n] for n, depth in wanted.items()):
                return resize(ancestry, method="weight_selection", layer_selection="uniform", seed=seed, **sizes), {}
            return resize(ancestry, seed=seed, calibration=None, **sizes), {}

    def input_processor(self) -> Any:
        """Tokenizer or image processor that is saved beside it, for examples; None where there is none."""
        if self.processing_class is None:
            self.processing_class = processor_for(cast(PreTrainedModel, self))
        return self.processing_class


def refuse_statistics(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> None:
    """Refuses batch norms: what they measured is no parameter, and a learngene keeps parameters alone.

    Raises:
        UnsupportedFamilyError: names one.
    """
    found = next((n for n, m in build(model_class, config).named_modules() if isinstance(m, _BatchNorm)), None)
    if found is not None:
        raise UnsupportedFamilyError(
            f"`{found}` of `{config.model_type}` is a batch norm, whose running statistics are no parameters: a learngene would "
            "lose them. resize() carries them over."
        )


def kinds_within_stages() -> list[str]:
    """Kinds of learngenes that take a hierarchy."""
    found, waiting = [], list(AncestryMixin.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.within_stages:
            found.append(_type(kind))
    return sorted(found)


def _refuse_kinds_of_stages(anatomy: Anatomy) -> None:
    """Refuses blocks of a stage that are alike in turns and have tensors of several shapes all the same."""
    shapes: dict[str, tuple[int, ...]] = {}
    tensors = in_series(anatomy) if anatomy.num_stages else {}
    odd = next((n for n, t in tensors.items() if shapes.setdefault(t.template, t.shape) != t.shape), None)
    if odd is not None:
        raise UnsupportedFamilyError(
            f"`{odd}` of `{anatomy.model_type}` has another shape than in other blocks of its stage, and a learngene makes them "
            "of what they share. resize() takes them."
        )


def _type(learngene_class: type[AncestryMixin]) -> str:
    return str(cast(Any, learngene_class).config_class.learngene_type)


def _fields(anatomy: Anatomy) -> str:
    return ", ".join(f"{field.native}=" for field in anatomy.stage_fields.values())


__all__ = ["EXAMPLES", "AncestryMixin", "check_read", "kinds_within_stages", "lasting", "refuse_statistics"]
