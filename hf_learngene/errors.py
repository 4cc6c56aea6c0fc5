"""Typed errors. Every one is a `ValueError` that says what was given, what is allowed and what would work."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class LearngeneError(ValueError):
    """Base of every error this package raises for what a caller asked or supplied."""


class UnknownOptionError(LearngeneError):
    """A size field, method or method option that does not exist here."""


class InvalidSizeError(LearngeneError):
    """A size that no model of the family can have: not a positive integer, or not divisible as the family needs."""


class DirectionError(LearngeneError):
    """A method asked for a direction it cannot go: a selection asked to grow, or a lossless growth asked to shrink."""


class LossyGrowthError(LearngeneError):
    """A growth that cannot preserve the function, asked for without `allow_lossy=True`, or that would start a tensor anew."""


class UnsupportedFamilyError(LearngeneError):
    """An architecture whose tensors cannot be told apart with certainty, or that is not an isotropic encoder."""


class UnsupportedSourceError(LearngeneError):
    """A source model in a state that cannot be resized: quantized, on several devices, on meta, or with adapters."""


class AdapterError(LearngeneError):
    """An adapter that cannot follow its base: of another base, of a kind that does not map, or where it would not be exact."""


class TrainingStateError(LearngeneError):
    """The state of a training that cannot go on in a larger model: of another optimiser, sharded, or after another resize."""


class CheckpointError(LearngeneError, OSError):
    """A checkpoint that is absent, unreadable, or does not fill the model. An `OSError` too, as in transformers."""


class UploadError(LearngeneError):
    """An upload that broke off."""


class OutputError(LearngeneError, OSError):
    """An output folder that exists already, or could not be written whole."""


class VocabularyError(LearngeneError):
    """Tokens to keep that the model does not have, or a tokenizer that cannot be trimmed or does not fit the model."""


class ProvenanceError(LearngeneError):
    """A `config.learngene` record that this version of the package does not understand."""


class UnfittedError(LearngeneError):
    """A learngene whose shared parts are still random."""


class CalibrationError(LearngeneError):
    """Calibration examples that the model cannot take, or too few of them."""


class RefitError(CalibrationError):
    """A refit that leaves the model further from its source, on its own examples, than plain selection does."""


class NoGainError(RefitError):
    """A calibrated shrink that is further from its source, on examples held back from it, than weight selection."""


class SyntheticExamplesError(CalibrationError):
    """Calibration examples that cannot be made up. It names the column, and says how to give examples.

    Attributes:
        column: the model's input that cannot be made.
    """

    def __init__(self, column: str, reason: str, whole: bool = False) -> None:
        self.column = column
        said = reason if whole else f"{column!r} cannot be made up: {reason}"
        super().__init__(
            f"{said}. Examples of your own always do: calibration=, a few hundred with that column (a datasets.Dataset, or a "
            "dict for each); labels are not needed. method='weight_selection' shrinks without any."
        )


class TeacherError(LearngeneError):
    """A teacher that does not fit the student or the data."""


class TrainingDataError(LearngeneError):
    """A data set without the columns that a model needs."""


class ResumeError(LearngeneError):
    """A checkpoint of another configuration."""


class NonFiniteLossError(LearngeneError, FloatingPointError):
    """A loss that is no number any more."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A sentence that names the closest allowed spelling, or nothing when none is close.

    Example:
        >>> nearest("hiden_size", ["hidden_size", "vocab_size"])
        " Did you mean 'hidden_size'?"
    """
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


@contextmanager
def naming(place: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the package about what a file or a checkpoint holds, raised in a `with` block, name it.

    Example:
        >>> with naming("my-vit"):
        ...     raise InvalidSizeError("hidden_size is at least 1; it was -1.")
        Traceback (most recent call last):
        hf_learngene.errors.InvalidSizeError: `my-vit`: hidden_size is at least 1; it was -1.
    """
    try:
        yield
    except LearngeneError as error:
        if os.fspath(place) not in str(error):
            error.args = (f"`{os.fspath(place)}`: {error}",)
        raise


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its name where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
