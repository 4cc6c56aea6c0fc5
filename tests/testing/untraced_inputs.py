"""What a plain pass over text or one image does not reach: masks, entities, images beside text, branches of the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


Inputs = dict[str, torch.Tensor]
Change = Callable[[Any, Inputs], Inputs]


def masked(model: Any, inputs: Inputs) -> Inputs:
    """Every second patch replaced by the mask token."""
    patches = (model.config.image_size // model.config.patch_size) ** 2
    return {**inputs, "bool_masked_pos": torch.arange(2 * patches).reshape(2, patches) % 2 == 0}


def with_entities(model: Any, inputs: Inputs) -> Inputs:
    """Two entities in each text."""
    ids = torch.tensor([[3, 4], [5, 0]])
    places = torch.full((2, 2, 4), -1)
    places[:, :, 0] = torch.tensor([[1, 3], [2, 0]])
    return {**inputs, "entity_ids": ids, "entity_attention_mask": (ids > 0).long(), "entity_position_ids": places}


def globally(model: Any, inputs: Inputs) -> Inputs:
    """Global attention at every fourth token."""
    return {**inputs, "global_attention_mask": (torch.arange(16) % 4 == 0).long().expand(2, 16)}


def with_image(model: Any, inputs: Inputs) -> Inputs:
    """One image behind each text."""
    model.config.image_token_id = 60
    pixels = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=model.dtype)
    count = len(model.model.get_image_features(pixels).pooler_output[0])
    tokens = torch.full((2, count), 60)
    return {"input_ids": torch.cat([inputs["input_ids"], tokens], 1), "pixel_values": pixels}


# What a plain pass does not reach: other inputs, other branches of the config. (extra config, class, change of inputs)
UNUSUAL: list[tuple[str, dict[str, Any], str, Change | None]] = [
    ("vit", {"encoder_stride": 4}, "ViTForMaskedImageModeling", masked),
    ("deit", {"encoder_stride": 4}, "DeiTForMaskedImageModeling", masked),
    ("dinov2", {}, "Dinov2Model", masked),
    ("dinov2_with_registers", {}, "Dinov2WithRegistersModel", masked),
    ("beit", {"use_mask_token": True}, "BeitModel", masked),
    ("data2vec-vision", {"use_mask_token": True}, "Data2VecVisionModel", masked),
    ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}, "DebertaV2Model", None),
    ("deberta", {"talking_head": True}, "DebertaModel", None),
    ("albert", {"num_hidden_groups": 3}, "AlbertModel", None),
    ("albert", {"inner_group_num": 2}, "AlbertModel", None),
    ("luke", {"layer_norm_eps": 1e-12}, "LukeForMaskedLM", with_entities),
    ("longformer", {"layer_norm_eps": 1e-12}, "LongformerModel", globally),
    ("ultravbert", {}, "UltraVBertForMaskedLM", with_image),
    ("modernvbert", {}, "ModernVBertForMaskedLM", with_image),
    ("aimv2_vision_model", {}, "Aimv2VisionModel", None),
    ("tipsv2_text_model", {}, "Tipsv2TextModel", None),
    ("clip_text_model", {}, "CLIPTextModel", None),
    ("siglip_text_model", {}, "SiglipTextModel", None),
    ("idefics3_vision", {}, "Idefics3VisionTransformer", None),
    ("smolvlm_vision", {}, "SmolVLMVisionTransformer", None),
    ("internvl_vision", {"use_qk_norm": True}, "InternVLVisionModel", None),
    ("videomae", {}, "VideoMAEModel", None),
    ("vjepa2", {}, "VJEPA2Model", None),
    ("wav2vec2-bert", {"position_embeddings_type": "relative"}, "Wav2Vec2BertModel", None),
]
