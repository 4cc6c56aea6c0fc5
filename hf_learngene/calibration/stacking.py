"""Columns of single examples as batches of tensors, and how many tokens a batch holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hf_learngene.anatomy.config_fields import as_pair, section, section_name
from hf_learngene.errors import CalibrationError


def tensor_of(example: Any, name: str, number: int) -> Tensor:
    """A column of an example as numbers.

    Raises:
        CalibrationError: there is no such column, or no numbers in it.
    """
    value = value_of(example, name, number)
    try:
        return torch.as_tensor(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"Column {name!r} of calibration example {number} cannot be read as numbers ({type(value).__name__}): {error}"
        ) from error


def value_of(example: Any, name: str, number: int) -> Any:
    """A column of an example.

    Raises:
        CalibrationError: it has none of that name.
    """
    if isinstance(example, Mapping) and name in example:
        return example[name]
    held = ", ".join(map(repr, example)) if isinstance(example, Mapping) else f"a {type(example).__name__}"
    raise CalibrationError(f"Calibration example {number} holds {held or 'nothing'}; the first ones hold {name!r}.")


def stacked(name: str, values: Sequence[Tensor], numbers: Sequence[int], fill: int) -> Tensor:
    """One tensor of a column's values, lists of different lengths filled up.

    Raises:
        CalibrationError: they are of different shapes.
    """
    other = next((i for i, v in enumerate(values) if v.shape != values[0].shape), None)
    if other is None:
        return torch.stack(tuple(values))
    if any(v.dim() != 1 for v in values):
        raise CalibrationError(
            f"The examples' {name!r} are of different shapes: {tuple(values[0].shape)} in example {numbers[0]}, "
            f"{tuple(values[other].shape)} in example {numbers[other]}; bring them to one."
        )
    # an empty list is a tensor of floats
    dtype = next((v.dtype for v in values if len(v)), values[0].dtype)
    return torch.nn.utils.rnn.pad_sequence([v.to(dtype) for v in values], batch_first=True, padding_value=fill)


def count_tokens(batch: Mapping[str, Tensor], main: str, config: PreTrainedConfig) -> int:
    """Tokens that a model makes of a batch, padding and tokens of its own (class, registers) left out.

    Example:
        >>> from transformers import ViTConfig
        >>> count_tokens({"pixel_values": torch.zeros(2, 3, 32, 16)}, "pixel_values", ViTConfig(patch_size=8))
        16
    """
    values, mask = batch[main], batch.get("attention_mask")
    if main == "input_ids":
        return int((mask if mask is not None and mask.shape == values.shape else torch.ones_like(values)).bool().sum())
    part = section(config, section_name(config, main))
    patch = getattr(part, "patch_size", None)
    if main != "pixel_values" or not patch or values.dim() not in (4, 5):
        return len(values)
    grid = [side // step for side, step in zip(values.shape[-2:], as_pair(patch), strict=True)]
    frames = values.shape[1] // (getattr(part, "tubelet_size", None) or 1) if values.dim() == 5 else 1
    return len(values) * math.prod(grid) * max(1, frames)


__all__ = ["count_tokens", "stacked", "tensor_of", "value_of"]
