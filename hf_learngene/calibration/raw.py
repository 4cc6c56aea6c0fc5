"""Raw texts and images as inputs of a model."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from hf_learngene.calibration.processing import kind_of
from hf_learngene.calibration.stacking import value_of
from hf_learngene.errors import CalibrationError, first_line


LONGEST_TEXT = 128  # tokens, where texts are tokenised here


class RawInputs:
    """Reads raw texts, pairs of them, or images with a processor.

    Args:
        main: the model's main input.
        processor: tokenizer, image processor or feature extractor.
        names: the column, or the two of a pair; none where each example is a text or an image itself.
        length: tokens of the longest text that the model reads; None where there is no bound.
    """

    def __init__(self, main: str, processor: Any, names: Sequence[str] = (), length: int | None = None) -> None:
        self.main, self.processor, self.names = main, processor, tuple(names)
        self.longest = min(LONGEST_TEXT, length or LONGEST_TEXT)

    def of(self, example: Any, number: int) -> tuple[Any, ...]:
        """What is read of one example: a text, two of them, or an image.

        Raises:
            CalibrationError: it lacks the column.
        """
        if not self.names:
            return (example,)
        return tuple(value_of(example, name, number) for name in self.names)

    def __call__(self, rows: Sequence[tuple[Any, ...]]) -> Mapping[str, Tensor]:
        """A batch of a processor's outputs.

        Raises:
            CalibrationError: the processor cannot read them.
        """
        try:
            if self.main == "pixel_values":
                return self.processor([_image(row[0]) for row in rows], return_tensors="pt")
            if kind_of(self.main) == "feature extractor":
                return self._heard(rows)
            columns = [list(column) for column in zip(*rows, strict=True)]
            return self.processor(
                *columns, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
            )
        except (AttributeError, OSError, TypeError, ValueError) as error:
            kinds = ", ".join(sorted({type(value).__name__ for row in rows for value in row}))
            raise CalibrationError(
                f"The {type(self.processor).__name__} cannot read the calibration examples ({kinds}): {first_line(error)}"
            ) from error

    def _heard(self, rows: Sequence[tuple[Any, ...]]) -> Mapping[str, Tensor]:
        sounds = [row[0] for row in rows]
        rate = getattr(self.processor, "sampling_rate", None)
        if all(isinstance(s, Mapping) and "array" in s for s in sounds):  # a column of `datasets.Audio`
            rate, sounds = sounds[0].get("sampling_rate", rate), [s["array"] for s in sounds]
        return self.processor(sounds, sampling_rate=rate, padding=True, return_tensors="pt")


def is_blank(row: Sequence[Any]) -> bool:
    """Whether there is nothing to read in an example: no text, or one of blanks.

    Example:
        >>> is_blank((" ",)), is_blank(("It rains.", None)), is_blank((None,))
        (True, False, True)
    """
    return all(value is None or (isinstance(value, str) and not value.strip()) for value in row)


def _image(value: Any) -> Any:
    """An image as an image processor reads it: opened where it is a file or its bytes, in colour."""
    if (
        isinstance(value, Mapping) and {"bytes", "path"} & value.keys()
    ):  # a column of `datasets.Image` without its type
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        value = Image.open(io.BytesIO(value))
    elif isinstance(value, (str, os.PathLike)):
        value = Image.open(Path(value).expanduser())
    return value.convert("RGB") if hasattr(value, "convert") else value


__all__ = ["LONGEST_TEXT", "RawInputs", "is_blank"]
