"""What the anatomy of a large config is found on: builds are few and small, and nothing found depends on that."""

from __future__ import annotations

import pytest
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    DebertaConfig,
    DebertaModel,
    IBertConfig,
    IBertModel,
    RemBertConfig,
    RemBertModel,
    Siglip2Config,
    Siglip2Model,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTModel,
    VivitConfig,
    Wav2Vec2Model,
)
from transformers.models.videomae import modeling_videomae

from hf_learngene import plan
from hf_learngene.anatomy import anatomy_of, infer, observed, passes, probe
from hf_learngene.anatomy.small import few_tokens, light, narrow
from testing.families import tiny_config


@pytest.fixture
def fresh(monkeypatch):
    """No anatomy of before."""
    monkeypatch.setattr(infer, "_CACHE", type(infer._CACHE)())
    monkeypatch.setattr(infer, "_LIKE", type(infer._LIKE)())


def test_a_table_that_is_made_entry_by_entry_is_made_for_few_tokens(fresh, monkeypatch):
    made = modeling_videomae.get_sinusoid_encoding_table
    rows = []

    def counted(positions, width):
        rows.append(positions)
        return made(positions, width)

    monkeypatch.setattr(modeling_videomae, "get_sinusoid_encoding_table", counted)
    config = VideoMAEConfig(num_hidden_layers=3)
    anatomy = anatomy_of(config, VideoMAEModel)
    assert anatomy.counts_no_tokens
    assert anatomy.grid == (14, 14)
    assert plan(config, model_class=VideoMAEModel, num_hidden_layers=6, method="lemon").target_config.image_size == 224
    assert max(rows) < 200


def test_the_anatomy_is_that_of_a_full_build(fresh, monkeypatch):
    config = tiny_config("videomae", "pixel_values")
    lean = anatomy_of(config, VideoMAEModel)
    monkeypatch.setattr(infer, "_CACHE", type(infer._CACHE)())
    monkeypatch.setattr(infer, "few_tokens", lambda config, section_of, factor: None)
    whole = anatomy_of(config, VideoMAEModel)
    assert lean.tensors == whole.tensors
    assert lean.norms == whole.norms
    assert lean.sizes == whole.sizes


def test_a_table_over_frames_keeps_every_token():
    assert not anatomy_of(tiny_config("timesformer", "pixel_values"), TimesformerModel).counts_no_tokens
    assert few_tokens(ViTConfig(), "", 1) is None
    assert few_tokens(TimesformerConfig(), "", 2).num_frames == 4


def test_fields_that_the_constructor_does_not_read_are_not_probed(fresh, monkeypatch):
    tried = []
    build = probe.build

    def counted(model_class, config, device="meta"):
        tried.append(config)
        return build(model_class, config, device)

    monkeypatch.setattr(probe, "build", counted)
    config = tiny_config("wav2vec2")
    anatomy_of(config, Wav2Vec2Model)
    for field, read in (("mask_time_length", False), ("num_codevectors_per_group", False), ("hidden_size", True)):
        assert any(getattr(one, field) != getattr(config, field) for one in tried) == read


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (DebertaModel, DebertaConfig(num_hidden_layers=2, vocab_size=1000)),
        (RemBertModel, RemBertConfig(num_hidden_layers=2, vocab_size=1000)),
        (IBertModel, IBertConfig(num_hidden_layers=2, vocab_size=1000)),
    ],
)
def test_a_model_that_looks_at_values_is_run_narrow_and_has_the_same_flow(fresh, monkeypatch, model_class, config):
    built = []
    build = passes.build

    def noted(kind, own, device="meta"):
        if device == "cpu":
            built.append(own.hidden_size)
        return build(kind, own, device)

    monkeypatch.setattr(passes, "build", noted)
    quick = anatomy_of(config, model_class)
    assert built == [narrow(config, "").hidden_size]
    monkeypatch.setattr(infer, "_CACHE", type(infer._CACHE)())
    monkeypatch.setattr(observed, "narrow", lambda config, section_of: None)
    assert anatomy_of(config, model_class) == quick
    assert built[1:] == [config.hidden_size]


def test_a_config_that_is_small_already_stays():
    assert narrow(tiny_config("bert"), "") is None
    assert anatomy_of(tiny_config("vit", "pixel_values"), ViTModel).sizes["hidden_size"] == 24


def test_what_follows_a_width_elsewhere_is_found_on_a_small_config(fresh, monkeypatch):
    """SigLIP 2 looks at values, so it runs on the CPU: whole, its two encoders at twice the width took seconds."""
    built = []
    build = passes.build

    def noted(kind, own, device="meta"):
        if device == "cpu":
            built.append((own.vision_config.hidden_size, own.text_config.vocab_size))
        return build(kind, own, device)

    monkeypatch.setattr(passes, "build", noted)
    vision = {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
    text = {
        **vision,
        "vocab_size": 5000,
        "hidden_size": 128,
        "projection_size": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = Siglip2Config(vision_config=vision, text_config=text)
    assert anatomy_of(config, Siglip2Model, "vision_config").followers == ("text_config.projection_size",)
    assert max(width for width, _ in built) == 2 * 64
    assert max(rows for _, rows in built) < 100


def test_a_pass_on_the_cpu_reads_small_images_of_the_other_sections(fresh, monkeypatch):
    config = BlipConfig(vision_config={"num_hidden_layers": 1}, text_config={"num_hidden_layers": 2})
    built = []
    build = passes.build

    def noted(kind, own, device="meta"):
        if device == "cpu":
            built.append(own)
        return build(kind, own, device)

    monkeypatch.setattr(passes, "build", noted)
    quick = anatomy_of(config, BlipForImageTextRetrieval, "text_config")
    assert [c.vision_config.image_size for c in built] == [2 * config.vision_config.patch_size]
    assert light(config, "text_config").vision_config.hidden_size == config.vision_config.hidden_size
    monkeypatch.setattr(infer, "_CACHE", type(infer._CACHE)())
    monkeypatch.setattr(observed, "light", lambda config, section_of: config)
    assert anatomy_of(config, BlipForImageTextRetrieval, "text_config") == quick


def test_few_tokens_of_a_video_whose_patches_and_steps_are_one_field():
    few = few_tokens(VivitConfig(), "", 3)
    assert (few.image_size, few.num_frames, tuple(few.tubelet_size)) == (48, 12, (2, 16, 16))
