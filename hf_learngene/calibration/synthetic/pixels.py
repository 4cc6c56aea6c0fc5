"""Made-up images as the columns of a model that reads images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import section, section_name
from hf_learngene.anatomy.inputs import image_sides
from hf_learngene.calibration.synthetic.images import image_of
from hf_learngene.calibration.trial import check_image_size
from hf_learngene.errors import CalibrationError, SyntheticExamplesError, first_line


AT_ONCE = 64  # images that are in memory unprocessed
MARGIN = 8 / 7  # images are made larger than they are read, as photographs are: 256 px for 224
MEAN = STD = 0.5  # where neither processor nor config says how pixels are normalised
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def pixel_columns(
    part: PreTrainedConfig, processing_class: Any, count: int, seed: int, taken: set[str], size: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """Columns of images.

    Args:
        part: the config that has the sizes of the images.
        processing_class: the checkpoint's image processor; without one the config's sizes are taken, and its mean and deviation.
        count: of examples.
        seed: for every random number.
        taken: names of the columns that the model reads.
        size: height and width of the images, as `size_for` tells them.

    Raises:
        SyntheticExamplesError: the processor cannot read them.
    """
    channels = int(getattr(part, "num_channels", None) or 3)
    processor = image_processor(processing_class) if channels in _MODES else None
    made = (size[0], size[1]) if processor is None else (round(MARGIN * size[0]), round(MARGIN * size[1]))
    parts: dict[str, list[NDArray[Any]]] = {}
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        images = [image_of(i, np.random.default_rng((seed, i)), made, channels) for i in numbers]
        found = _normalised(images, part) if processor is None else _processed(images, processor, taken, size)
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def image_processor(processing_class: Any) -> Any:
    """The image processor of a processor of several kinds of inputs; else what was given."""
    return getattr(processing_class, "image_processor", processing_class)


def read_size(part: PreTrainedConfig, processor: Any) -> tuple[int, int]:
    """Height and width of the images that a model reads: as its processor makes them, or as its config says."""
    for name in ("crop_size", "size"):
        size = getattr(processor, name, None)
        if name == "crop_size" and getattr(processor, "do_center_crop", True) is False:
            continue
        pair = [_entry(size, n) for n in ("height", "width")]
        if all(pair):
            return int(pair[0]), int(pair[1])
        if edge := _entry(size, "shortest_edge") or _entry(size, "longest_edge"):
            return int(edge), int(edge)
    height, width = image_sides(part)
    return height, width


def size_for(model: PreTrainedModel, processing_class: Any) -> tuple[int, int]:
    """Height and width of the images that a model is shown: its processor's, if it takes those, else its config's."""
    part = section(model.config, section_name(model.config, "pixel_values"))
    size = read_size(part, image_processor(processing_class))
    blank = torch.zeros(1, int(getattr(part, "num_channels", None) or 3), *size)
    try:
        check_image_size(model, {"pixel_values": blank})
    except CalibrationError:
        height, width = image_sides(part)
        return height, width
    return size


def _entry(size: Any, name: str) -> Any:
    return size.get(name) if hasattr(size, "get") else getattr(size, name, None)


def _processed(
    images: list[NDArray[np.uint8]], processor: Any, taken: set[str], size: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    mode = _MODES[images[0].shape[-1]]
    pictures = [Image.fromarray(i.squeeze(-1) if mode == "L" else i, mode) for i in images]
    try:
        made = processor(images=pictures, return_tensors="np")
        if np.shape(made.get("pixel_values"))[-2:] != size:  # a model that was resized, and has its source's processor
            sides = {"height": size[0], "width": size[1]}
            made = processor(images=pictures, size=sides, do_center_crop=False, return_tensors="np")
        columns = {k: np.asarray(v) for k, v in made.items() if k in taken}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SyntheticExamplesError(
            "pixel_values",
            f"{type(processor).__name__} does not turn images ({mode}) into them: {first_line(error)}. Give the image "
            "processor of the model's own checkpoint, or none",
        ) from error
    if "pixel_values" not in columns or columns["pixel_values"].dtype == object:
        raise SyntheticExamplesError(
            "pixel_values",
            f"{type(processor).__name__} does not turn images into them. Give the image processor of the model's own checkpoint, "
            "or none",
        )
    return columns


def _normalised(images: list[NDArray[np.uint8]], part: PreTrainedConfig) -> dict[str, NDArray[Any]]:
    pixels = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255
    mean, std = (
        np.reshape(np.asarray(getattr(part, name, None) or default, dtype=np.float32), (-1, 1, 1))
        for name, default in (("image_mean", MEAN), ("image_std", STD))
    )
    return {"pixel_values": (pixels - mean) / std}


__all__ = ["image_processor", "pixel_columns", "read_size", "size_for"]
