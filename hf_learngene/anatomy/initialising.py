"""Whether a family's own initialisation takes a model of some sizes: it runs where weights are loaded, long after a plan."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.probe import build
from hf_learngene.anatomy.small import light
from hf_learngene.state import exclusive, seeded


def check_initialisation(model: PreTrainedModel, config: PreTrainedConfig, section_of: str) -> None:
    """Runs what the family initialises by itself, as `from_pretrained` does.

    Args:
        model (`PreTrainedModel`): the model on `meta`; its parameters are not drawn.
        config (`PreTrainedConfig`): its config.
        section_of (`str`): name of the nested config that holds the sizes, or `""`.

    Raises:
        Exception: what the family's own code raises on the CPU too (Whisper's sinusoids at an odd width).

    Example:
        >>> from transformers import WhisperConfig, WhisperForAudioClassification
        >>> odd = WhisperConfig(d_model=15, encoder_attention_heads=1, decoder_attention_heads=1, encoder_layers=1)
        >>> check_initialisation(build(WhisperForAudioClassification, odd), odd, "")
        Traceback (most recent call last):
        ValueError: Number of channels has to be divisible by 2 for sinusoidal positional embeddings, got 15 channels.
    """
    try:
        with exclusive(), torch.device("meta"), seeded(0), torch.no_grad():
            for owner, module in _own_modules(model):
                owner._init_weights(module)
    except Exception:  # what looks at values cannot run on `meta`
        with exclusive():
            _build_on_cpu(type(model), config, section_of)


def _own_modules(model: PreTrainedModel) -> Iterator[tuple[PreTrainedModel, nn.Module]]:
    """The modules of the family's own classes, one of each shape, with the model inside whose initialisation is theirs.

    Those of torch take every size, and are nearly all.
    """
    known = set()
    left: list[tuple[PreTrainedModel, nn.Module]] = [(model, model)]
    while left:
        owner, module = left.pop()
        owner = module if isinstance(module, PreTrainedModel) else owner
        inside = list(module.children())
        left += [(owner, child) for child in inside]
        if not type(module).__module__.startswith("torch."):
            key = type(module), *(tuple(p.shape) for m in (module, *inside) for p in m.parameters(recurse=False))
            if key not in known:
                known.add(key)
                yield owner, module


def _build_on_cpu(model_class: type[PreTrainedModel], config: PreTrainedConfig, section_of: str) -> None:
    """Builds there, where a constructor initialises what it has built.

    Raises:
        Exception: what the last constructor raised, where each did.
    """
    try:
        build(model_class, light(config, section_of), "cpu")
    except Exception:  # fewer tokens may be too few for it
        build(model_class, config, "cpu")
