"""What a learngene takes from its ancestry beside weights: how the ancestry is brought to size, and what prepares its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hf_learngene.anatomy import anatomy_of
from hf_learngene.resizing import resize
from hf_learngene.state import quiet


# What `from_ancestry` and `initialize` of a learngene that looks at examples take, as `resize` does.
EXAMPLES = ("calibration", "processing_class", "calibration_column", "calibration_size", "calibration_top_up")


class AncestryMixin:
    """How a learngene comes from its ancestry; for one that looks at examples, a subclass says otherwise."""

    takes_examples: ClassVar[bool] = False

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
            examples: keywords of `resize` that say what it looks at; empty unless `takes_examples`.
        """
        if not sizes:
            return ancestry, {}
        with quiet():
            depth = sizes.get("num_hidden_layers")
            old = anatomy_of(ancestry.config, type(ancestry)).num_layers
            if set(sizes) == {"num_hidden_layers"} and isinstance(depth, int) and 0 < depth < old:
                return resize(ancestry, method="weight_selection", layer_selection="uniform", seed=seed, **sizes), {}
            return resize(ancestry, seed=seed, calibration=None, **sizes), {}

    def input_processor(self) -> Any:
        """Tokenizer or image processor that is saved beside it; None where nothing that it does reads raw inputs."""
        return None


__all__ = ["EXAMPLES", "AncestryMixin"]
