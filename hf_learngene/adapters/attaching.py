"""A carried adapter attached to the resized base, with settings that load it there as a stock adapter."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.adapters.change import Change
from hf_learngene.adapters.reading import MERGE, Adapter, own_name
from hf_learngene.errors import AdapterError


@torch.inference_mode(False)
@torch.no_grad()
def attach(adapter: Adapter, base: PreTrainedModel) -> peft.PeftModel:
    """The base with an adapter that was carried to it. As peft does it, the base's modules are wrapped in place.

    Raises:
        AdapterError: DoRA on a row of zeros, which has no direction.
    """
    weights = dict(base.named_parameters(remove_duplicate=False))
    # a writer of a new layer is zero throughout, and takes no DoRA: it does without
    changes = {
        place: change
        for place, change in adapter.changes.items()
        if not change.magnitudes or bool(_norms(change, weights[f"{place}.weight"]).any())
    }
    magnitudes = {n: _magnitudes(n, c, weights[f"{n}.weight"]) for n, c in changes.items() if c.magnitudes}
    model: Any = peft.get_peft_model(base, _config(adapter, changes, base), adapter_name=adapter.name)
    for name, parameter in model.base_model.model.named_parameters(remove_duplicate=False):
        value = _value(name, changes, magnitudes, adapter)
        if value is not None:
            parameter.copy_(value.reshape(parameter.shape))
    return model.eval()


def _value(name: str, changes: dict[str, Change], magnitudes: dict[str, Tensor], adapter: Adapter) -> Tensor | None:
    """What a parameter of the adapted model becomes; None where it stays."""
    for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "ia3_l"):
        place, found, leaf = name.partition(f".{part}.")
        if not found:
            continue
        change = changes[place]
        if part == "ia3_l":
            return change.rows if change.rows is not None else change.columns
        if part == "lora_magnitude_vector":
            return magnitudes[place]
        if leaf.endswith(".bias"):
            return change.bias
        factor = change.right if part in ("lora_A", "lora_embedding_B") else change.left
        return factor.T if factor is not None and "embedding" in part else factor
    if ".original_module." in f".{name}":
        return None
    return adapter.saved.get(own_name(name))


def _norms(change: Change, weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(change.added(weight.detach().cpu().double()), dim=1)


def _magnitudes(place: str, change: Change, weight: Tensor) -> Tensor:
    """DoRA's magnitudes, of what it multiplies rows by."""
    norms = _norms(change, weight)
    if change.rows is None or not bool((norms > 0).all()):
        raise AdapterError(
            f"The resized `{place}` has rows of zeros (new entries that change nothing), for which DoRA has no direction. {MERGE}"
        )
    return change.rows * norms


def _config(adapter: Adapter, changes: dict[str, Change], base: PreTrainedModel) -> peft.PeftConfig:
    """The adapter's settings for the resized base: the caller's own where they name the same modules there."""
    config: Any = copy.deepcopy(adapter.config)
    config.base_model_name_or_path = config.revision = None  # peft names the base that it is attached to
    names = [n for n, _ in base.named_modules()]
    if {n for n in names if n.endswith(tuple(config.modules_to_save or ()))} != set(adapter.modules):
        config.modules_to_save = sorted(adapter.modules) or None
    if not _fits(config, names, changes):
        listed: Any = sorted(changes)
        config.exclude_modules = None
        if config.peft_type == peft.PeftType.IA3:
            config.feedforward_modules = sorted(n for n, c in changes.items() if c.columns is not None)
        else:
            config.layers_to_transform = config.layers_pattern = None
        for config.target_modules in (
            listed,
            "|".join(map(re.escape, listed)),
        ):  # a listed name is the end of others, too
            if _fits(config, names, changes):
                break
    if config.peft_type == peft.PeftType.LORA:
        config.init_lora_weights = True  # what is drawn from the base's weights would change them
        config.rank_pattern = _pattern({n: c.rank for n, c in changes.items()}, config.r)
        config.alpha_pattern = _pattern({n: c.alpha for n, c in changes.items()}, config.lora_alpha)
    return config


def _fits(config: Any, names: Iterable[str], changes: dict[str, Change]) -> bool:
    """Whether settings, as they are, name the modules that the adapter is on."""
    if {n for n in names if check_target_module_exists(config, n)} != changes.keys():
        return False
    forward = getattr(config, "feedforward_modules", None)
    if forward is None:
        return True
    read = {
        n for n in changes if (re.fullmatch(forward, n) if isinstance(forward, str) else n.endswith(tuple(forward)))
    }
    return read == {n for n, c in changes.items() if c.columns is not None}


def _pattern(values: dict[str, Any], usual: Any) -> dict[str, Any]:
    """What differs from the usual value, by the whole name of the module."""
    return {re.escape(name): value for name, value in values.items() if value != usual}


__all__ = ["attach"]
