"""A family of one's own, whose names say nothing: known by its flow, or declared where that does not tell."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_learngene import plan, resize, verify
from hf_learngene.anatomy import register_anatomy, registry
from hf_learngene.errors import LossyGrowthError, UnsupportedFamilyError
from testing.families import randomise


class MyVitConfig(PreTrainedConfig):
    model_type = "my_vit"

    hidden_size: int = 24
    num_hidden_layers: int = 3
    num_attention_heads: int = 3
    intermediate_size: int = 40
    image_size: int = 12
    patch_size: int = 4
    num_channels: int = 3
    layer_norm_eps: float = 1e-12
    linear: bool = False


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.heads, self.linear = config.hidden_size, config.num_attention_heads, config.linear
        self.one, self.two = (nn.LayerNorm(width, eps=config.layer_norm_eps) for _ in range(2))
        self.first, self.second, self.third, self.back = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, config.intermediate_size), nn.Linear(config.intermediate_size, width)

    def forward(self, x):
        normed = self.one(x)
        q, k, v = (
            m(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.first, self.second, self.third)
        )
        if self.linear:
            q, k = functional.elu(q) + 1, functional.elu(k) + 1
            mixed = q @ (k.mT @ v) / (q @ k.sum(-2, keepdim=True).mT)
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.back(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.two(x))))


class MyVit(PreTrainedModel):
    config_class = MyVitConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.patch = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        places = (config.image_size // config.patch_size) ** 2
        self.places = nn.Parameter(torch.zeros(1, places, config.hidden_size))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.last = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, labels=None, **kwargs):
        x = self.patch(pixel_values).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return ImageClassifierOutput(logits=self.classifier(self.last(x).mean(1)))


@pytest.fixture(autouse=True)
def _forget():
    yield
    registry._DECLARED.pop("my_vit", None)


def model(**options):
    torch.manual_seed(0)
    return randomise(MyVit(MyVitConfig(**options)).double()).eval()


def kept(source, **sizes):
    """Whether growth to these sizes keeps the function."""
    return verify(source, resize(source, method="lemon", **sizes)).function_preserving


PLAIN = [{"hidden_size": 48}, {"intermediate_size": 64}, {"num_hidden_layers": 5}]
LARGER_HEADS = {"hidden_size": 48, "num_attention_heads": 3}


@pytest.mark.parametrize("sizes", [*PLAIN, LARGER_HEADS], ids=str)
def test_plain_attention_needs_no_declaration(sizes):
    assert kept(model(), **sizes)


def test_what_the_flow_does_not_tell_is_declared_and_then_proved():
    source = model(linear=True)
    with pytest.raises(UnsupportedFamilyError, match=r"blocks\.\{\}\.first\.weight \(none\).*second.*third.*back"):
        plan(source, hidden_size=48)
    register_anatomy(
        "my_vit", roles={rf"{n}\.(weight|bias)$": r for n, r in zip(("first", "second", "third"), "qkv", strict=True)}
    )
    assert all(kept(source, **sizes) for sizes in PLAIN)
    with pytest.raises(LossyGrowthError, match="`logits` moves"):  # zeros in a head count there
        plan(source, **LARGER_HEADS)


def test_what_is_declared_wrongly_is_refused():
    register_anatomy("my_vit", roles={r"first\.(weight|bias)$": "v", r"third\.(weight|bias)$": "q"})
    with pytest.raises(LossyGrowthError, match=r"`logits` moves .* `blocks.0.back.weight`"):
        plan(model(), **LARGER_HEADS)
