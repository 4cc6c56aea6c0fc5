"""Which columns of an example hold raw texts or images: by what the caller said, by their names, or by what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from hf_learngene.errors import CalibrationError, nearest


LABELS = frozenset({"labels", "label", "label_ids", "start_positions", "end_positions", "next_sentence_label"})
RAW = {
    "pixel_values": ("image", "img", "pixels"),
    "input_ids": ("text", "sentence", "sentence1", "question", "content"),
}
# Two texts that one example of a model is made of, as the GLUE tasks, SQuAD and the like name them.
PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_A", "sentence_B"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "context"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("query", "document"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
)
Wanted = str | Sequence[str] | None


def raw_columns(example: Mapping[str, Any], main: str, wanted: Wanted = None) -> tuple[str, ...]:
    """The column of raw texts or images, or the two columns of a pair of texts.

    Args:
        example: one example.
        main: the model's main input.
        wanted: what the caller said, one name or two.

    Returns:
        Names; none where the example holds what the model reads, or nothing that is known.

    Raises:
        CalibrationError: there is no such column, or there are several of which any may be meant.

    Example:
        >>> raw_columns({"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}, "input_ids")
        ('premise', 'hypothesis')
        >>> raw_columns({"id": 3, "review": "Good."}, "input_ids")
        ('review',)
        >>> raw_columns({"input_ids": [5, 6]}, "input_ids")
        ()
    """
    if wanted is not None:
        return _said(example, main, wanted)
    if main in example:
        return ()
    if main == "input_ids":
        for pair in PAIRS:
            if all(isinstance(example.get(name), str) for name in pair):
                return pair
    known = [name for name in RAW.get(main, ()) if name in example]
    if known:
        return (known[0],)
    kinds = Image.Image if main == "pixel_values" else str if main == "input_ids" else ()
    held = [n for n, v in example.items() if isinstance(v, kinds) and str(n).lower() not in LABELS]
    if len(held) > 1:
        raise CalibrationError(
            f"Which column is to be read? The examples hold {', '.join(map(repr, held))}. Name one: "
            f"calibration_column={held[0]!r}" + (f", or two as a pair: {tuple(held[:2])!r}." if kinds is str else ".")
        )
    return tuple(held)


def _said(example: Any, main: str, wanted: Wanted) -> tuple[str, ...]:
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted) if isinstance(wanted, (list, tuple)) else ()
    if not 1 <= len(names) <= 2 or not all(isinstance(n, str) for n in names):
        raise CalibrationError(f"calibration_column is the name of a column, or two of a pair; it was {wanted!r}.")
    if len(names) == 2 and main != "input_ids":
        raise CalibrationError(f"A pair of columns is read as texts, and the model reads {main}: name one column.")
    if not isinstance(example, Mapping):
        raise CalibrationError(
            f"calibration_column={wanted!r} names a column, and the examples have none: they are {type(example).__name__}s."
        )
    for name in names:
        if name not in example:
            raise CalibrationError(
                f"The calibration examples have no column {name!r}; they have {', '.join(map(repr, example))}."
                f"{nearest(name, map(str, example))}"
            )
    return () if names == (main,) else names


__all__ = ["LABELS", "PAIRS", "RAW", "raw_columns"]
