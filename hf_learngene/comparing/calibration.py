"""The calibration examples of a comparison: given ones, drawn from the training data, or made up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from hf_learngene.calibration.examples import check_given
from hf_learngene.calibration.reading import read_examples
from hf_learngene.comparing import fingerprint
from hf_learngene.comparing.measuring import Task, sample
from hf_learngene.comparing.spec import CompareSpec, Start
from hf_learngene.errors import CalibrationError, UnknownOptionError
from hf_learngene.methods import METHODS
from hf_learngene.resizing.spec import AUTO, SYNTHETIC


@dataclass(frozen=True)
class Calibration:
    """What the methods of a comparison look at.

    Attributes:
        given: examples, a word that stands for some, or None.
        column: which of their columns is read.
        size: how many are looked at.
    """

    given: Any
    column: str | tuple[str, str] | None
    size: int

    @classmethod
    def of(cls, spec: CompareSpec, train_dataset: Any, given: Any, column: str | tuple[str, str] | None) -> Self:
        """The arguments in one form, a path read.

        Raises:
            UnknownOptionError: examples that no method looks at.
            CalibrationError: what can be read once only, or not at all.
        """
        takers = any(start.needs_examples for start in spec.starts.values())
        if given is None and takers:
            sample(train_dataset, 0, 0)
        if given is not None and not takers and not any(start.method is None for start in spec.starts.values()):
            known = [name for name, method in METHODS.items() if method.needs_examples]
            raise UnknownOptionError(
                "None of the methods uses calibration examples, so calibration= would do nothing: leave it out, or add one that "
                f"uses them: {', '.join(known)}."
            )
        if given is not None and not _is_word(given):
            check_given(given)
            if isinstance(given, Iterator):
                raise CalibrationError(
                    f"calibration is read anew for each job, and a {type(given).__name__} can be read once only. Give a list: "
                    "list(calibration)."
                )
            given = read_examples(given) if isinstance(given, (str, os.PathLike)) else given
        if column is not None and (given is None or _is_word(given)):
            raise CalibrationError(f"calibration_column={column!r} names a column of calibration: give that too.")
        return cls(given, column, spec.calibration_size)

    def keywords(self, start: Start, task: Task, seed: int) -> dict[str, Any]:
        """Keywords of `resize`. Nothing given: drawn by the seed, and for `auto` as the one-liner does it."""
        if start.method is not None and start.method.learns:
            return {"train_dataset": task.train_dataset, "processing_class": task.processing_class}
        if not start.needs_examples and start.method is not None:
            return {}
        found = {"processing_class": task.processing_class, "calibration_size": self.size}
        if self.given is not None:
            return {**found, "calibration": self.given, "calibration_column": self.column}
        own = sample(task.train_dataset, self.size, seed) if start.needs_examples else AUTO
        return {**found, "calibration": own}

    def described(self, spec: CompareSpec) -> dict[str, Any]:
        """What of it the results depend on."""
        drawn = self.given is None and any(start.needs_examples for start in spec.starts.values())
        known = self.given if self.given is None or _is_word(self.given) else fingerprint.of_data(self.given)
        size = self.size if drawn or known is not None else None
        return {"calibration": known, "calibration_column": self.column, "calibration_size": size}


def _is_word(given: Any) -> bool:
    return isinstance(given, str) and given in (AUTO, SYNTHETIC)


__all__ = ["Calibration"]
