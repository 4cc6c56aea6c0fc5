"""What the learned growths share: where they start, what they refuse, and what they ask of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.admit import refuse_kinds
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps.learned import GrowthOperator, mixes_of
from hf_learngene.maps.task import ResizeTask
from hf_learngene.methods.lemon import ExactGrowth


@dataclass(frozen=True)
class LearnedGrowth(ExactGrowth):
    """A growth whose maps are trained on data. Its recipes, and its options, are those of the exact growth that it starts from.

    Class variables:
        operator_class: the map that is trained.
    """

    name: ClassVar[str] = ""
    learns: ClassVar[bool] = True
    operator_class: ClassVar[type[GrowthOperator]]

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        super().check(source, sizes)
        refuse_kinds(source, f"method={self.name!r} learns to mix layers")

    def operator_options(self) -> dict[str, Any]:
        """Options of the operator."""
        return {}

    def operator_parameters(self, task: ResizeTask) -> int:
        """Number of parameters that are learned, without what starts anew."""
        mixes = mixes_of(self.recipes(task), task)
        return sum(map(math.prod, self.operator_class.shapes(mixes, **self.operator_options()).values()))

    def check_operator(self, task: ResizeTask) -> None:
        """Refuses a growth that has nothing to learn, or more than a model of the target's size would have itself.

        Raises:
            InvalidSizeError: says how many parameters there would be.
        """
        count, most = self.operator_parameters(task), task.target.num_parameters
        if not count:
            raise InvalidSizeError(
                f"method={self.name!r} learns how width and depth grow, and no size grows here. Name a larger one, such as "
                f"num_hidden_layers={task.source.num_layers + 1}."
            )
        if count >= most:
            raise InvalidSizeError(
                f"method={self.name!r} would learn {count:,} parameters to make a model of {most:,}: training that model itself "
                f"is cheaper. {self.fewer_parameters()} method='lemon' grows without learning."
            )

    def fewer_parameters(self) -> str:
        """What makes the operator smaller, in a sentence."""
        return "Grow less at once, or depth alone."

    def operator(
        self, task: ResizeTask, source: Mapping[str, Tensor], start: Mapping[str, Tensor], fresh: Iterable[str] = ()
    ) -> GrowthOperator:
        """The map of this growth, at its start.

        Args:
            task: from the source to the target.
            source: the source's parameters by name.
            start: the target's, as the recipes make them.
            fresh: names of those that start anew, which are trained as they stand.
        """
        mixes = mixes_of(self.recipes(task), task)
        return self.operator_class(mixes, source, start, list(fresh), **self.operator_options())


__all__ = ["LearnedGrowth"]
