"""What the files of a comparison hold, checked as they are read: files are edited, cut and mixed up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_learngene.errors import CheckpointError


FORMAT = 1


@dataclass(frozen=True)
class Kind:
    """A kind of value, by a test and in words."""

    holds: Callable[[Any], bool]
    words: str


def optional(kind: Kind) -> Kind:
    """A kind, or None."""
    return Kind(lambda value: value is None or kind.holds(value), f"{kind.words} or null")


def listed(kind: Kind) -> Kind:
    """A list of a kind."""
    return Kind(lambda value: isinstance(value, list) and all(map(kind.holds, value)), f"a list: {kind.words} each")


TEXT = Kind(lambda value: isinstance(value, str), "text")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
COUNT = Kind(lambda value: type(value) is int and value >= 0, "a whole number of at least 0")
NUMBER = Kind(lambda value: type(value) in (int, float), "a number")
MAPPING = Kind(lambda value: isinstance(value, dict), "an object")
MAPPINGS = Kind(
    lambda value: isinstance(value, dict) and all(map(MAPPING.holds, value.values())), "an object of objects"
)

COMPARISON = {"format": COUNT, "versions": MAPPING, "settings": MAPPING, "source": MAPPING, "rows": listed(MAPPING)}
# settings of which tables and plots make use
SETTINGS = {
    "source": MAPPING, "methods": MAPPINGS, "metric": TEXT, "seeds": listed(COUNT), "steps": COUNT, "batch_size": COUNT,
}  # fmt: skip
SOURCE = {"metric": optional(NUMBER), "parameters": optional(COUNT)}
CURVES = {"steps": listed(COUNT), "curves": listed(listed(optional(NUMBER))), "seconds": listed(NUMBER)}
ROW = {
    "size": TEXT, "method": TEXT, "parameters": optional(COUNT), "cannot": optional(TEXT), "same_task": FLAG, **CURVES,
}  # fmt: skip
JOB = {"steps": listed(COUNT), "curve": listed(optional(NUMBER)), "seconds": NUMBER}


def fault(content: Any, kinds: Mapping[str, Kind], partial: bool = False) -> str | None:
    """What is wrong with an object, in words; None if nothing is.

    Args:
        content: what was read.
        kinds: name -> what its value is to be.
        partial: names may be absent.

    Example:
        >>> fault({"metric": "high", "parameters": 3}, SOURCE)
        "'metric' is a number or null; it was 'high'"
    """
    if not isinstance(content, dict):
        return f"it is an object; it was {_short(content)}"
    for name, kind in kinds.items():
        if name not in content:
            if not partial:
                return f"it has no {name!r}"
        elif not kind.holds(content[name]):
            return f"{name!r} is {kind.words}; it was {_short(content[name])}"
    return None


def check_comparison(content: Any) -> None:
    """Refuses what is not the content of a comparison.json.

    Raises:
        CheckpointError: says where it is damaged.
    """
    if isinstance(content, dict) and type(written := content.get("format")) is int and written != FORMAT:
        raise CheckpointError(f"The comparison is of format {written}; this version reads format {FORMAT}.")
    _check(fault(content, COMPARISON), "the whole")
    _check(fault(content["settings"], SETTINGS, partial=True), "its settings")
    _check(fault(content["source"], SOURCE), "its source")
    for number, row in enumerate(content["rows"]):
        _check(fault(row, ROW) or _fault_of_row(row), f"row {number}")


def check_job(content: Any) -> bool:
    """Whether what was read is the record of a finished job."""
    return fault(content, JOB) is None and 0 < len(content["steps"]) == len(content["curve"])


def _fault_of_row(row: Mapping[str, Any]) -> str | None:
    made = row["cannot"] is None
    if made and not (row["curves"] and row["steps"] and row["parameters"] is not None):
        return "it has no curves, steps or parameters, and 'cannot' does not say why"
    if not made and row["curves"]:
        return "it has curves, and 'cannot' says that there are none"
    if any(len(curve) != len(row["steps"]) for curve in row["curves"]) or len(row["seconds"]) != len(row["curves"]):
        return "'curves', 'steps' and 'seconds' are not of one length"
    return None


def _check(found: str | None, where: str) -> None:
    if found is not None:
        raise CheckpointError(f"The comparison is damaged; of {where}: {found}.")


def number(value: float | None) -> float | None:
    """A number for JSON, which has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def value_of(found: float | None) -> float:
    """What `number` wrote, as a number."""
    return math.nan if found is None else float(found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}…"
