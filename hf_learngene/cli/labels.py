"""Calibration data of a command: what is data at all, and data with labels for the methods that look at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_learngene.resizing.plan import Plan
    from hf_learngene.resizing.spec import ResizeSpec


def data_of(calibration: str) -> str | None:
    """The data that `--calibration` names; None for the words that stand for others.

    Example:
        >>> data_of("images/"), data_of("synthetic"), data_of("./synthetic")
        ('images/', None, './synthetic')
    """
    return None if calibration in ("auto", "synthetic", "none") else calibration


def labelled(spec: ResizeSpec, made: Plan, data: str, source: str, loading: Mapping[str, Any]) -> ResizeSpec:
    """The spec with examples and their labels, numbered as the model numbers them, masked where it is a masked-LM one."""
    import torch

    from hf_learngene.calibration.processing import processor_of
    from hf_learngene.errors import UnknownOptionError
    from hf_learngene.training.data import drawn_examples, read_data, training_data

    column = spec.calibration_column
    if column is not None and not isinstance(column, str):
        raise UnknownOptionError(f"{made.method} looks at labels and reads one column of texts; {column!r} are two.")
    name = source if spec.processing_class is None else spec.processing_class
    processor = processor_of(name, made.model_class.main_input_name, loading if name == source else {})
    with torch.device("meta"):
        skeleton = made.model_class(made.source_config)
    drawn = drawn_examples(read_data(data), spec.calibration_size, spec.seed)
    prepared = training_data(drawn, skeleton, processor, input_column=column, seed=spec.seed)
    batches = torch.utils.data.DataLoader(prepared.dataset, batch_size=32, collate_fn=prepared.collator)
    # a masked-LM collator masks anew each time, and calibration may read its examples more than once
    examples = [{k: v[i] for k, v in batch.items()} for batch in batches for i in range(len(batch["labels"]))]
    return dataclasses.replace(spec, calibration=examples, calibration_column=None)
