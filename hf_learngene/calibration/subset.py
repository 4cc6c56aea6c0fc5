"""Which of the examples are looked at, where there are more than calibration needs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

from transformers.utils import logging

from hf_learngene.errors import CalibrationError, first_line


logger = logging.get_logger(__name__)
SIZE = 512  # examples that are looked at where nobody says how many


def check_size(size: Any) -> int:
    """The number of examples to look at.

    Raises:
        CalibrationError: it is no whole number of at least 1.
    """
    if size is None:
        return SIZE
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise CalibrationError(f"calibration_size is a number of examples, {SIZE} by default; it was {size!r}.")
    return size


def has_places(given: Any) -> bool:
    """Whether single examples can be asked for: a list, a data set, but no stream."""
    return hasattr(given, "__len__") and hasattr(given, "__getitem__") and not isinstance(given, (str, bytes))


def spread(count: int, size: int, seed: int = 0) -> list[int]:
    """`size` of `count` places, one drawn from each of as many equal stretches: from all over a sorted set, and in no step.

    Example:
        >>> spread(5, 9), spread(1000, 4)
        ([0, 1, 2, 3, 4], [216, 348, 694, 977])
    """
    if size >= count:
        return list(range(count))
    drawn = random.Random(seed)
    edges = [i * count // size for i in range(size + 1)]
    return [drawn.randrange(a, b) for a, b in itertools.pairwise(edges)]


def chosen(given: Any, size: int, seed: int = 0) -> Iterator[tuple[int, Any]]:
    """Examples with their numbers, at most `size`; a line in the log says where there are more.

    Raises:
        CalibrationError: one cannot be read.
    """
    from datasets import Dataset

    if not has_places(given):
        yield from _first(given, size)
        return
    count = len(given)
    places = spread(count, size, seed)
    if len(places) < count:
        logger.warning(
            f"Calibrating on {len(places):,} of {count:,} examples, spread over all; calibration_size={count} takes every one."
        )
    rows = given.select(places) if isinstance(given, Dataset) else (given[place] for place in places)
    yield from _read(iter(rows), places)


def _first(given: Iterable[Any], size: int) -> Iterator[tuple[int, Any]]:
    rows = _read(iter(given), itertools.count())
    yield from itertools.islice(rows, size)
    if next(rows, None) is not None:
        logger.warning(
            f"Calibrating on the first {size:,} examples of a stream that goes on; a larger calibration_size takes more of it."
        )


def _read(rows: Iterator[Any], places: Iterable[int]) -> Iterator[tuple[int, Any]]:
    """The examples with their numbers; one that cannot be opened is named."""
    for place in places:
        try:
            row = next(rows)
        except StopIteration:
            return
        except OSError as error:  # an image that is damaged, a file that is gone
            raise CalibrationError(
                f"Calibration example {place} cannot be read: {first_line(error)}. Leave it out."
            ) from error
        yield place, row


__all__ = ["SIZE", "check_size", "chosen", "has_places", "spread"]
