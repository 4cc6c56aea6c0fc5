"""FLOPs of one forward pass, counted on `meta`, and scaled to any sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.inputs import example_inputs
from hf_learngene.anatomy.probe import build
from hf_learngene.anatomy.types import HEADS
from hf_learngene.budget.count import Amounts, scaled
from hf_learngene.budget.remembered import Remembered
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.state import exclusive, seeded


DEVICES = ("meta", "cpu")
TOKENS = 128  # of the text that is counted; an image has the config's size


def flops(config: PreTrainedConfig, model_class: type[PreTrainedModel], *, devices: Sequence[str] = DEVICES) -> int:
    """FLOPs of one example's forward pass: an image of the config's size, or a text of 128 tokens. A multiply-add counts two.

    Args:
        config: of the model.
        model_class: its class.
        devices: where it is run, in turn until one does: on meta it takes no memory, but some models look at values.

    Raises:
        UnsupportedFamilyError: a family that runs on none of the inputs that are tried.

    Example:
        >>> from transformers import ViTConfig, ViTModel
        >>> round(flops(ViTConfig(), ViTModel) / 1e9, 1)
        35.1
    """
    return _by_module(config, model_class, devices)[""]


def flop_count(
    anatomy: Anatomy, config: PreTrainedConfig, model_class: type[PreTrainedModel]
) -> Callable[[Mapping[str, float]], int]:
    """A function from sizes to FLOPs: one count of the source, each part scaled with the axes that it multiplies.

    Args:
        anatomy: the source's.
        config: its config.
        model_class: its class.
    """
    counted = _by_module(config, model_class)
    weights = {t.module: t for t in anatomy.tensors.values() if len(t.dims) > 1}
    for other, first in anatomy.ties.items():  # a tied decoder multiplies by the table that it shares
        weights.setdefault(other.rpartition(".")[0], anatomy.tensors[first])
    amounts: Amounts = {}
    own = dict(counted)
    for name, total in counted.items():
        if name:
            own[_holder(name, counted)] -= total
    for name, total in own.items():
        layered = any(name.startswith(f"{container}.") for container in anatomy.containers)
        weight = weights.get(name)
        # what is not multiplied by a weight is attention: token by token over all heads
        axes = tuple(sorted(d.axis for d in weight.dims)) if weight is not None else (HEADS,) if layered else ()
        amounts[layered, axes] = amounts.get((layered, axes), 0) + total
    return scaled(anatomy, amounts)


def _holder(name: str, counted: Mapping[str, int]) -> str:
    """The module that was called around another one; lists of modules are not called."""
    while name:
        name = name.rpartition(".")[0]
        if name in counted:
            break
    return name


def _by_module(
    config: PreTrainedConfig, model_class: type[PreTrainedModel], devices: Sequence[str] = DEVICES
) -> dict[str, int]:
    """FLOPs of each module with all that is inside it; the whole model is ''."""
    plain = copy.deepcopy(config)
    failure: Exception | None = None
    for attention in ("eager", None):  # fused kernels are counted on some devices only
        for device in devices:
            try:
                with exclusive():
                    plain._attn_implementation = attention
                    model = build(model_class, plain, device)
                    if device == "cpu":  # a model that looks at values
                        for parameter in model.parameters():
                            torch.nn.init.zeros_(parameter)
                    inputs = example_inputs(model, plain, device, TOKENS)
                    with torch.no_grad(), seeded(0), Remembered(), FlopCounterMode(display=False) as counter:
                        model(**inputs)
            except Exception as error:  # any class of error may come from a family's own code
                failure = failure or error.with_traceback(None)  # its frames hold whatever the callers have
                continue
            root = type(model).__name__
            return {
                "" if name == "Global" else name.removeprefix(f"{root}."): sum(found.values())
                for name, found in counter.get_flop_counts().items()
                if name != root
            }
    raise UnsupportedFamilyError(
        f"The FLOPs of {model_class.__name__} cannot be counted: it runs on no text of {TOKENS} tokens and no image of its size "
        f"({failure}). Give params= or sizes instead."
    ) from failure


__all__ = ["TOKENS", "flop_count", "flops"]
