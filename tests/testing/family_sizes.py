"""Sizes of tiny models: one table that any config class understands, and what few families add to it."""

from __future__ import annotations

from typing import Any


SIZES: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 61,
    "max_position_embeddings": 40, "image_size": 12, "patch_size": 4,
}  # fmt: skip
SMALL_VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 20, "image_size": 16, "patch_size": 4,
}  # fmt: skip
SOUND: dict[str, Any] = {
    "output_hidden_size": 24,
    "tdnn_dim": (8, 8),
    "tdnn_kernel": (3, 1),
    "tdnn_dilation": (1, 1),
    "xvector_output_dim": 8,
    "classifier_proj_size": 8,
    "layer_norm_eps": 1e-12,
}
WAVES: dict[str, Any] = {
    **SOUND, "conv_dim": (8, 8), "conv_stride": (3, 2), "conv_kernel": (5, 3), "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 2, "codevector_dim": 8, "proj_codevector_dim": 8,
    "num_codevectors_per_group": 6, "conv_pos_kernel_size": 3,
}  # fmt: skip
# New layers of a post-norm family are exact up to epsilon, so all have BERT's 1e-12 here.
# What keeps a family's other sizes in proportion; nothing here says what a tensor is.
EXTRA: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "beit": {"use_relative_position_bias": True, "use_absolute_position_embeddings": True, "layer_scale_init_value": 0.1},
    "data2vec-vision": {"use_relative_position_bias": True, "layer_scale_init_value": 0.1},
    "big_bird": {"attention_type": "original_full"},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False,
                "layer_norm_eps": 1e-12},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True,
                   "norm_rel_ebd": "layer_norm", "position_buckets": 8, "layer_norm_eps": 1e-12},
    "dinov2": {"mlp_ratio": 2}, "dinov2_with_registers": {"mlp_ratio": 2},
    "electra": {"embedding_size": 16}, "convbert": {"embedding_size": 24},
    "layoutlm": {"max_2d_position_embeddings": 32},
    "longformer": {"attention_window": 8, "max_position_embeddings": 64},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 0},
    "nystromformer": {"num_landmarks": 16, "segment_means_seq_len": 16, "conv_kernel_size": 3, "layer_norm_eps": 1e-12},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 20},
    "vit_mae": {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1,
                "decoder_intermediate_size": 20, "mask_ratio": 0.0},
    "roformer": {"embedding_size": 24},
    "esm": {"vocab_size": 61, "position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 4},
    "eurobert": {"num_key_value_heads": 3, "head_dim": 8}, "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "jina_embeddings_v3": {"layer_norm_eps": 1e-12},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 16},
    "markuplm": {"max_xpath_tag_unit_embeddings": 20, "max_xpath_subs_unit_embeddings": 20, "tag_pad_id": 16,
                 "subs_pad_id": 17, "max_depth": 6, "xpath_unit_hidden_size": 4},
    "mobilebert": {"embedding_size": 16, "true_hidden_size": 12, "intra_bottleneck_size": 12},
    "neomme": {"num_key_value_heads": 3, "head_dim": 8, "embedding_dim": 16, "embedding_rank": 12, "per_layer_config": {}},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local", "local"], "feed_forward_size": 40,
                 "attention_head_size": 8},
    "squeezebert": {"embedding_size": 24}, "ultrabert": {"prediction_head_size": 20},
    # sounds and videos of a few tokens
    "audio-spectrogram-transformer": {"max_length": 16, "num_mel_bins": 12, "frequency_stride": 4, "time_stride": 4},
    "timesformer": {"num_frames": 2}, "videomae": {"num_frames": 4}, "vivit": {"num_frames": 4, "tubelet_size": (2, 4, 4)},
    "vjepa2": {"crop_size": 12, "frames_per_clip": 4, "pred_hidden_size": 16, "pred_num_attention_heads": 2,
               "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2, "mlp_ratio": 2},
    "wav2vec2-bert": {**SOUND, "feature_projection_input_dim": 10, "conv_depthwise_kernel_size": 5, "vocab_size": 61,
                      "left_max_position_embeddings": 4, "right_max_position_embeddings": 2},
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "wav2vec2-conformer", "sew",
                     "sew-d"), WAVES),
    "siglip2_vision_model": {"num_patches": 9}, "whisper": {"num_mel_bins": 12, "max_source_positions": 10},
    "parakeet_encoder": {"num_mel_bins": 16, "subsampling_conv_channels": 8, "num_key_value_heads": 3},
    "lasr_encoder": {"num_mel_bins": 16, "subsampling_conv_channels": 8, "num_key_value_heads": 3},
    "yolos": {"image_size": (12, 16), "num_detection_tokens": 5},
    **dict.fromkeys(("embedding_gemma2_text", "exaone4_5_vision", "lfm3_vl_vision"), {"num_key_value_heads": 3, "head_dim": 8}),
    **dict.fromkeys(("qwen2_5_vl_vision", "qwen3_vl_vision", "qwen3_vl_moe_vision", "qwen3_5_vision", "qwen3_5_moe_vision",
                     "cosmos3_edge_vision"), {"out_hidden_size": 24, "num_position_embeddings": 16,
                                              "deepstack_visual_indexes": [1], "fullatt_block_indexes": [1]}),
    **dict.fromkeys(("glm4v_vision", "glm4v_moe_vision", "glm_ocr_vision"), {"out_hidden_size": 24}),
    **dict.fromkeys(("audioflamingo3_encoder", "qwen2_audio_encoder", "voxtral_encoder", "moss_transcribe_diarize_audio"),
                    {"num_mel_bins": 12, "max_source_positions": 10}),
    "glmasr_encoder": {"num_mel_bins": 12, "num_key_value_heads": 3},
    "voxtral_realtime_encoder": {"num_mel_bins": 12, "head_dim": 8},
    "layoutlmv3": {"layer_norm_eps": 1e-12, "coordinate_size": 4, "shape_size": 4, "max_2d_position_embeddings": 32,
                   "input_size": 8},
    "blip_text_model": {"encoder_hidden_size": 16, "layer_norm_eps": 1e-12},
    **dict.fromkeys(("sam_vision_model", "sam_hq_vision_model"), {"output_channels": 16, "window_size": 2,
                                                                  "global_attn_indexes": [1]}),
    "lilt": {"max_2d_position_embeddings": 32},
    "roc_bert": {"pronunciation_embed_dim": 8, "shape_embed_dim": 8, "pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "nemotron_asr_streaming_encoder": {"num_mel_bins": 16, "subsampling_conv_channels": 8, "num_key_value_heads": 3},
    "canine": {"num_hash_buckets": 30, "local_transformer_stride": 8},
    # hierarchies: an image holds a whole window behind the last stage, and a stage of Hiera has more than its transition
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin"), {"window_size": 2}),
    "hiera": {"image_size": (64, 64), "depths": (2, 2, 3, 2)},
    "cvt": {"depth": (1, 3, 4)},
    "dinov3_convnext": {"depths": [2, 1, 3, 2], "hidden_sizes": [8, 16, 24, 32]},
    **dict.fromkeys(("segformer", "glpn"), {"decoder_hidden_size": 12}),
    # image and text: the text side is resized, the image side is only made small
    "modernvbert": {"vision_config": SMALL_VISION}, "ultravbert": {"vision_config": SMALL_VISION, "prediction_head_size": 20},
}  # fmt: skip

# Sizes of the stages of a hierarchy.
STAGES: dict[str, tuple[int, ...]] = {
    "num_hidden_layers": (2, 1, 3, 2), "hidden_size": (8, 16, 24, 32), "num_attention_heads": (1, 2, 2, 4),
    "mlp_ratio": (2, 3, 2, 2),
}  # fmt: skip
