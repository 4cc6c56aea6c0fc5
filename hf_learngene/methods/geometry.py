"""The pass behind a method that looks at examples: another grid, length or number of channels, at the same widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_learngene.methods.base import Method


@dataclass(frozen=True)
class Geometry(Method):
    """Changes what has no direction (image and patch size, positions, channels), and nothing else.

    Calibration examples have the source's image size, ids and length, so a pass that looks at them comes first.
    """

    name: ClassVar[str] = "geometry"
    lossless: ClassVar[bool] = True  # but for the parts that a card names
    summary: ClassVar[str] = "image size, positions or channels, after the examples were looked at"


__all__ = ["Geometry"]
