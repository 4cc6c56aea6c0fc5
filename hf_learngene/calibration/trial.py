"""Images of another size than a model's own: whether it takes them, before anything is done with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy.config_fields import as_pair, section, section_name
from hf_learngene.anatomy.inputs import main_input
from hf_learngene.errors import CalibrationError


def check_image_size(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Refuses images of a size that the model does not read; a family that interpolates its positions reads all.

    Args:
        model (`PreTrainedModel`): it is run on one image, where the images are not of its own size.
        batch: its inputs.

    Raises:
        CalibrationError: names both sizes.
    """
    pixels = batch.get("pixel_values")
    if main_input(type(model)) != "pixel_values" or pixels is None or pixels.dim() not in (4, 5):
        return
    own = getattr(section(model.config, section_name(model.config, "pixel_values")), "image_size", None)
    found = tuple(pixels.shape[-2:])
    if not own or found == as_pair(own):
        return
    place = next(model.parameters())
    if place.device.type == "meta":
        return
    one = {
        k: v[:1].to(place.device, place.dtype if v.is_floating_point() else None) for k, v in batch.items() if v.dim()
    }
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(**one)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        wanted = "{} × {}".format(*as_pair(own))
        raise CalibrationError(
            f"The calibration images are {found[0]} × {found[1]}, and the model reads {wanted} (image_size). Examples are for "
            f"the source, whatever size it is to get: bring them to {wanted}, or give the images themselves with the source's "
            "own image processor (processing_class=)."
        ) from error
    finally:
        for module, training in modes:
            module.training = training


__all__ = ["check_image_size"]
