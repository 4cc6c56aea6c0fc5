"""What a learngene takes from its ancestry beside weights: how the ancestry is brought to size, and what prepares its inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

from transformers import PreTrainedModel

from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration.processing import processor_for
from hf_learngene.calibration.subset import check_size
from hf_learngene.errors import UnknownOptionError
from hf_learngene.resizing import resize
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
    processing_class: Any

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
            depth = sizes.get("num_hidden_layers")
            old = anatomy_of(ancestry.config, type(ancestry)).num_layers
            if set(sizes) == {"num_hidden_layers"} and isinstance(depth, int) and 0 < depth < old:
                return resize(ancestry, method="weight_selection", layer_selection="uniform", seed=seed, **sizes), {}
            return resize(ancestry, seed=seed, calibration=None, **sizes), {}

    def input_processor(self) -> Any:
        """Tokenizer or image processor that is saved beside it, for examples; None where there is none."""
        if self.processing_class is None:
            self.processing_class = processor_for(cast(PreTrainedModel, self))
        return self.processing_class


__all__ = ["EXAMPLES", "AncestryMixin", "check_read", "lasting"]
