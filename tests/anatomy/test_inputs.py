"""Inputs of the recorded pass: by signature and config, or the caller's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, ViTModel

from hf_learngene import plan, resize, verify
from hf_learngene.anatomy import anatomy_of, register_anatomy, registry
from hf_learngene.anatomy.inputs import example_inputs, main_input
from hf_learngene.anatomy.probe import build
from hf_learngene.calibration.synthetic.limits import why_not
from hf_learngene.errors import InvalidSizeError, LossyGrowthError, UnknownOptionError, UnsupportedFamilyError
from testing.families import inputs_for, model_class, plan_of, randomise, tiny_config, tiny_model


KINDS = {
    "ASTModel": {"input_values": (1, 16, 12)},
    "Wav2Vec2Model": {"input_values": (1, 65)},  # ten frames of two convolutions
    "Wav2Vec2BertModel": {"input_features": (1, 10, 10)},
    "VivitModel": {"pixel_values": (1, 4, 3, 12, 12)},
    "VJEPA2Model": {"pixel_values_videos": (1, 4, 3, 12, 12)},
    "Siglip2VisionModel": {"pixel_values": (1, 9, 48), "pixel_attention_mask": (1, 9), "spatial_shapes": (1, 2)},
    "Idefics3VisionTransformer": {"pixel_values": (1, 3, 12, 12)},
    "ViltModel": {"input_ids": (1, 10), "pixel_values": (1, 3, 12, 12)},
    "BertForMultipleChoice": {"input_ids": (1, 2, 10)},
}


def tiny(name, **extra):
    cls = model_class(name)
    return cls, tiny_config(cls.config_class.model_type, main_input(cls), **extra)


@pytest.mark.parametrize("name", KINDS)
def test_inputs_are_of_the_shapes_that_the_model_reads(name):
    cls, config = tiny(name)
    model = cls(config).eval()
    found = example_inputs(model, config)
    assert {n: tuple(t.shape) for n, t in found.items()} == KINDS[name]
    with torch.no_grad():
        model(**found)


def test_a_text_of_a_model_with_images_of_their_own_encoder_stands_alone():
    cls, config = tiny("ModernVBertForMaskedLM")
    assert set(example_inputs(cls(config), config)) == {"input_ids"}


class Scaled(BertModel):
    """Takes what no rule makes, and has a parameter without dimensions."""

    config_class = BertConfig
    main_input_name = "states"

    def __init__(self, config):
        super().__init__(config)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, states):
        return super().forward(inputs_embeds=states * self.logit_scale)


class TestTheCallersInputs:
    @pytest.fixture(autouse=True)
    def _forget(self):
        yield
        registry._DECLARED.pop("bert", None)

    def test_are_asked_for_where_no_rule_makes_them(self):
        with pytest.raises(UnsupportedFamilyError, match=r"reads 'states'.*register_anatomy\('bert', inputs="):
            anatomy_of(tiny_config("bert"), Scaled)

    def test_are_taken(self):
        register_anatomy("bert", inputs=lambda model: {"states": torch.zeros(1, 6, model.config.hidden_size)})
        model = randomise(Scaled(tiny_config("bert"))).double()
        assert anatomy_of(model.config, Scaled).tensors["logit_scale"].dims == ()
        grown = resize(model, method="lemon", intermediate_size=64, num_hidden_layers=4)
        report = verify(model, grown, {"states": torch.randn(2, 6, 24, dtype=torch.float64)})
        assert report.relative < 1e-10


@pytest.mark.parametrize(
    ("kind", "name", "sizes"),
    [
        ("vivit", "VivitModel", {"image_size": 16}),
        ("audio-spectrogram-transformer", "ASTModel", {"patch_size": 8}),
        ("siglip2_vision_model", "Siglip2VisionModel", {"patch_size": 8}),
        ("yolos", "YolosModel", {"image_size": (16, 16)}),
    ],
)
def test_rows_that_several_sizes_count_are_kept(kind, name, sizes):
    with pytest.raises(InvalidSizeError, match="count together"):
        plan_of(kind, name, **sizes)


def test_a_filters_length_is_no_size():
    with pytest.raises(UnknownOptionError, match="no size field 'num_conv_pos_embeddings'"):
        plan_of("wav2vec2", "Wav2Vec2Model", num_conv_pos_embeddings=8)


def test_rows_of_a_grid_without_a_size_are_kept():
    with pytest.raises(UnknownOptionError, match="no size field 'num_patches'"):
        plan_of("siglip2_vision_model", "Siglip2VisionModel", num_patches=16)


@pytest.mark.parametrize(
    ("name", "extra", "sizes", "message"),
    [
        ("VideoMAEModel", {}, {"hidden_size": 48}, "makes for its own width"),
        (
            "Wav2Vec2BertModel",
            {"position_embeddings_type": "relative"},
            {"hidden_size": 48},
            "makes for its own width",
        ),
        ("EsmcModel", {}, {"num_hidden_layers": 4}, "follows from its depth"),
        ("VJEPA2Model", {}, {"hidden_size": 48, "num_attention_heads": 3}, "rotates"),
        ("WavLMModel", {}, {"hidden_size": 48, "num_attention_heads": 3}, "head by head"),
        ("InternVLVisionModel", {"use_qk_norm": True}, {"hidden_size": 40, "num_attention_heads": 5}, "all queries"),
        ("Wav2Vec2Model", {"do_stable_layer_norm": True}, {"hidden_size": 40}, "only whole multiples"),
    ],
)
def test_what_would_be_another_function_is_refused(name, extra, sizes, message):
    cls, config = tiny(name, **extra)
    with pytest.raises((InvalidSizeError, LossyGrowthError), match=message):
        plan(config, model_class=cls, method="lemon", **sizes)


def test_a_ratio_that_is_a_float_has_a_direction():
    cls, config = tiny("VJEPA2Model", mlp_ratio=4.0)
    assert anatomy_of(config, cls).sizes["mlp_ratio"] == 4
    cls, config = tiny("VJEPA2Model", mlp_ratio=2.5)
    with pytest.raises(UnknownOptionError, match="no size field 'mlp_ratio'"):
        plan(config, model_class=cls, mlp_ratio=3)


@pytest.mark.parametrize(
    "sizes", [{"num_hidden_layers": 5}, {"hidden_size": 48}, {"hidden_size": 48, "num_hidden_layers": 4}]
)
def test_a_head_over_all_layers_attention_grows_with_the_depth(sizes):
    model = tiny_model("esm", "EsmModel")
    inputs = inputs_for(model)
    grown = resize(model, method="lemon", **sizes)
    for each in (model, grown):
        each.set_attn_implementation("eager")
    with torch.no_grad():
        before, after = (m.predict_contacts(inputs["input_ids"], inputs["attention_mask"]) for m in (model, grown))
    assert torch.allclose(before, after, atol=1e-6)  # rotations are in float32
    assert not torch.allclose(before, torch.full_like(before, 0.5))


def test_fewer_layers_keep_their_entries():
    model = tiny_model("esm", "EsmModel")
    small = resize(model, method="weight_selection", layer_selection="uniform", num_hidden_layers=2)
    weight = model.contact_head.regression.weight
    assert torch.equal(small.contact_head.regression.weight, weight[:, [0, 1, 2, 6, 7, 8]])


def test_what_cannot_be_made_up_is_told():
    for name, words in (("ViltModel", "an image beside each text"), ("BertForMultipleChoice", "several texts")):
        cls, config = tiny(name)
        assert words in str(why_not(config, cls))
    cls, config = tiny("ViTModel")
    assert cls is ViTModel
    assert why_not(config, cls) is None


def test_layers_of_several_kinds_need_their_projections_each():
    """A layer that hashes has queries that are keys; the local ones beside it have both."""
    cls, config = tiny("ReformerModel", attn_layers=["lsh", "local", "lsh"])
    with pytest.raises(UnsupportedFamilyError, match="attention projections"):
        anatomy_of(config, cls)


def test_a_norm_of_two_streams_side_by_side_needs_multiples():
    cls, config = tiny("ReformerModel")
    with pytest.raises(LossyGrowthError, match="encoder.layer_norm"):
        plan(config, model_class=cls, method="lemon", hidden_size=40)


def test_images_as_rows_of_patches_and_sounds_with_bands_as_channels():
    from transformers import GlmAsrEncoder, GlmAsrEncoderConfig, Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    config = Qwen2_5_VLConfig().vision_config
    config.depth = 1
    given = example_inputs(build(Qwen2_5_VisionTransformerPretrainedModel, config), config)
    assert given["grid_thw"].tolist() == [[1, 4, 4]]
    assert given["hidden_states"].shape == (16, 3 * 2 * 14 * 14)
    config = GlmAsrEncoderConfig(num_hidden_layers=1)
    assert example_inputs(build(GlmAsrEncoder, config), config)["input_features"].shape == (1, 128, 10)
