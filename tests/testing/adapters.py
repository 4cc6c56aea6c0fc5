"""Models with adapters whose numbers are all random: a fresh adapter is the identity, and would follow anything."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel

from testing.families import inputs_for


def adapted(model: PreTrainedModel, config: peft.PeftConfig, seed: int = 0) -> peft.PeftModel:
    """A copy of a model with a random adapter, in eval mode."""
    torch.manual_seed(seed)  # of what peft draws
    made: Any = peft.get_peft_model(copy.deepcopy(model), config).eval()
    generator = torch.Generator().manual_seed(seed)
    own = ("lora_", "ia3_l", "modules_to_save")
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if any(part in name for part in own) or (getattr(config, "bias", "none") != "none" and "bias" in name):
                noise = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                ones = "ia3_l" in name or "magnitude" in name  # both multiply
                parameter.copy_(parameter * (1 + noise) if ones else parameter + noise)
    return made


def lora(*targets: str, **options: Any) -> peft.LoraConfig:
    """LoRA of rank 2 on the modules that end so; on every linear layer where none is named."""
    return peft.LoraConfig(**{"r": 2, "target_modules": list(targets) or "all-linear", "lora_alpha": 3, **options})


def output(model: Any, like: PreTrainedModel) -> Tensor:
    """The logits on one batch of a model's inputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        return model(**inputs_for(like))["logits"]


def assert_same_logits(made: Any, wanted: Any, like: PreTrainedModel) -> None:
    """Equal up to rounding in float64, relative to the largest."""
    expected = output(wanted, like)
    torch.testing.assert_close(output(made, like), expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


def reloaded(made: peft.PeftModel, base: PreTrainedModel, folder: Any) -> peft.PeftModel:
    """An adapter saved, and loaded onto a copy of a base, by peft alone: every key has to find its place."""
    with warnings.catch_warnings(record=True) as said:
        made.save_pretrained(folder)
        del said[:]  # that embeddings are saved too
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
    assert [str(w.message) for w in said if "key" in str(w.message)] == []
    return loaded
