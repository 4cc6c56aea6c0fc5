"""Tiny random models of several parts: an encoder for images and one for texts, or a backbone under a head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers as t
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from testing.families import randomise


IMAGES: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 12,
    "patch_size": 4,
}  # fmt: skip
# Another width than the images' encoder, so that one is never taken for the other.
TEXTS: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 61,
    "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 3,
}  # fmt: skip
POST_NORM = {**TEXTS, "layer_norm_eps": 1e-12}
# Rows of patches in place of images, whose size no field says.
PATCHES = {**{name: size for name, size in IMAGES.items() if name != "image_size"}, "num_patches": 9}
NECK: dict[str, Any] = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}


def _two(
    config_class: Any, texts: dict[str, Any] = TEXTS, images: dict[str, Any] = IMAGES, **more: Any
) -> PreTrainedConfig:
    return config_class(vision_config=dict(images), text_config=dict(texts), **more)


def _dual() -> PreTrainedConfig:
    config_class = t.VisionTextDualEncoderConfig
    return config_class.from_vision_text_configs(t.ViTConfig(**IMAGES), t.BertConfig(**POST_NORM), projection_dim=16)


def _flava() -> PreTrainedConfig:
    fused = {"hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 40}
    return t.FlavaConfig(
        image_config=IMAGES, text_config=TEXTS, multimodal_config=fused, projection_dim=16, hidden_size=40
    )


def _stages(config_class: Any, **more: Any) -> PreTrainedConfig:
    """A backbone that hands out what each of its four layers gives."""
    sizes = _by_ratio(IMAGES) if "mlp_ratio" in more else IMAGES
    return config_class(
        **{**sizes, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False, **more}
    )


def _by_ratio(sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a family that writes its ffn as a multiple of the width."""
    return {**{name: size for name, size in sizes.items() if name != "intermediate_size"}, "mlp_ratio": 2}


def _depth_anything() -> PreTrainedConfig:
    backbone = _stages(t.Dinov2Config, image_size=28, patch_size=14, mlp_ratio=2)
    return t.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=24, head_hidden_size=8, patch_size=14, **NECK
    )


def _dpt() -> PreTrainedConfig:
    backbone = _stages(t.Dinov2Config, image_size=28, patch_size=14, mlp_ratio=2)
    return t.DPTConfig(backbone_config=backbone, is_hybrid=False, reassemble_factors=[4, 2, 1, 0.5], **NECK)


def _zoedepth() -> PreTrainedConfig:
    return t.ZoeDepthConfig(
        backbone_config=_stages(t.BeitConfig, image_size=16, use_relative_position_bias=True), bottleneck_features=8,
        num_relative_features=8, patch_transformer_hidden_size=8, patch_transformer_intermediate_size=8,
        patch_transformer_num_attention_heads=2, bin_embedding_dim=8, num_attractors=[4, 2, 2, 1], **NECK,
    )  # fmt: skip


def _vitpose() -> PreTrainedConfig:
    sizes = {**_by_ratio(IMAGES), "image_size": [64, 48], "patch_size": [16, 16], "out_indices": [3]}
    return t.VitPoseConfig(backbone_config=t.VitPoseBackboneConfig(**sizes), num_labels=5)


def _captions() -> PreTrainedConfig:
    decoder = t.BertConfig(**{**POST_NORM, "hidden_size": 24, "num_attention_heads": 3})
    return t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(t.ViTConfig(**IMAGES), decoder)


_BLIP = partial(_two, t.BlipConfig, POST_NORM, projection_dim=16, image_text_hidden_size=20)
_VIDEO = {**IMAGES, "num_frames": 2, "mit_hidden_size": 16, "mit_intermediate_size": 20, "mit_num_hidden_layers": 1,
          "mit_num_attention_heads": 2}  # fmt: skip
_CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "CLIPModel": partial(_two, t.CLIPConfig, projection_dim=16),
    "SiglipModel": partial(_two, t.SiglipConfig, {**TEXTS, "projection_size": 24}),
    "Siglip2Model": partial(_two, t.Siglip2Config, {**TEXTS, "projection_size": 24}, PATCHES),
    "ChineseCLIPModel": partial(_two, t.ChineseCLIPConfig, POST_NORM, projection_dim=16),
    "AltCLIPModel": partial(_two, t.AltCLIPConfig, {**POST_NORM, "project_dim": 16}, projection_dim=16),
    "BlipModel": _BLIP,
    "BlipForImageTextRetrieval": _BLIP,
    "BlipForConditionalGeneration": _BLIP,
    "CLIPSegModel": partial(_two, t.CLIPSegConfig, projection_dim=16),
    "OwlViTModel": partial(_two, t.OwlViTConfig, projection_dim=16),
    "OwlViTForObjectDetection": partial(_two, t.OwlViTConfig, projection_dim=32),
    "Owlv2Model": partial(_two, t.Owlv2Config, projection_dim=16),
    "XCLIPModel": partial(_two, t.XCLIPConfig, TEXTS, _VIDEO, projection_dim=16, prompt_num_attention_heads=2),
    "VisionTextDualEncoderModel": _dual,
    "FlavaModel": _flava,
    "VitPoseForPoseEstimation": _vitpose,
    "DepthAnythingForDepthEstimation": _depth_anything,
    "DPTForDepthEstimation": _dpt,
    "ZoeDepthForDepthEstimation": _zoedepth,
    "VisionEncoderDecoderModel": _captions,
}
# Every class with the sections that are resized, one after the other.
PARTS: list[tuple[str, str]] = [
    (name, section)
    for name in _CONFIGS
    for section in (
        ("image_config", "text_config", "multimodal_config") if name == "FlavaModel"
        else ("encoder",) if name == "VisionEncoderDecoderModel"
        else ("vision_config",) if name == "BlipForConditionalGeneration"
        else ("backbone_config",) if "Estimation" in name
        else ("vision_config", "text_config")
    )
]  # fmt: skip


def parted_config(name: str) -> PreTrainedConfig:
    """A tiny config of a class of several parts."""
    return _CONFIGS[name]()


def parted_model(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A tiny random model of a class of several parts, in eval mode.

    The row of the padding is zero, as `from_pretrained` of some of them leaves it (Chinese-CLIP), whatever was saved.
    """
    torch.manual_seed(seed)
    model = randomise(getattr(t, name)(parted_config(name)).to(dtype), seed).eval()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight.data[module.padding_idx])
    return model
