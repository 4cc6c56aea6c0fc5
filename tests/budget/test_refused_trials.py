"""A trial whose refit is refused counts as the worst, and does not end the search."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_learngene import allocate, errors
from hf_learngene.pruning.refit import Refit


def vit():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 3}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=12, patch_size=4)).eval()


def pictures():
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(3, 12, 12, generator=generator)} for _ in range(64)]


def refused_where(monkeypatch, refused):
    run = Refit.run

    def checked(self, *given, **named):
        if refused(self.target.config):
            raise errors.RefitError("refused")
        return run(self, *given, **named)

    monkeypatch.setattr(Refit, "run", checked)


def test_sizes_that_cannot_be_refitted_are_not_chosen(monkeypatch):
    source = vit()
    refused_where(monkeypatch, lambda config: config.num_hidden_layers < 3)
    found = allocate(source, 0.8, pictures(), hidden_size=24)
    assert found.sizes["num_hidden_layers"] == 3
    assert found.tried[0].error < 10


def test_where_none_can_be_refitted_it_is_said(monkeypatch):
    refused_where(monkeypatch, lambda config: True)
    with pytest.raises(errors.RefitError, match="refused"):
        allocate(vit(), 0.8, pictures(), hidden_size=24)
