"""The miniature that a growth is proved on: small, of the layers that are read, and with sizes that fit each other."""

from __future__ import annotations

import importlib

import pytest
import torch
from transformers import (
    BertModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    SamConfig,
    SamModel,
    ViTModel,
    VivitConfig,
    VivitModel,
    VJEPA2Config,
    VJEPA2Model,
)

from hf_learngene import plan, resize
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.resizing import miniature, proof
from hf_learngene.resizing.outputs import difference, in_float64, outputs_of, random_inputs
from testing.families import randomise, tiny_config


planning = importlib.import_module("hf_learngene.resizing.plan")  # its function has the name of the module


def steps_of(config, cls, section=None, **growth):
    """The passes of a growth, which are left unproved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "prove", lambda step: None)
        return plan(config, model_class=cls, method="lemon", **({section: growth} if section else growth)).passes


VIVIT = VivitConfig(hidden_size=24, num_attention_heads=3, intermediate_size=40, num_hidden_layers=2)
JEPA = VJEPA2Config(
    hidden_size=24, num_attention_heads=1, num_hidden_layers=4, mlp_ratio=2.0, pred_hidden_size=36, pred_num_attention_heads=3,
    pred_num_hidden_layers=1,
)  # fmt: skip


@pytest.mark.parametrize(("config", "cls"), [(VIVIT, VivitModel), (JEPA, VJEPA2Model)])
def test_the_miniature_of_a_video_has_few_patches(config, cls):
    small = next(miniature.miniatures(steps_of(config, cls, num_hidden_layers=5)[0])).config
    inputs = random_inputs(cls(small))
    assert next(iter(inputs.values())).shape[1:] == (16, 3, 64, 64)  # 128 patches, where the real one has thousands


def test_a_predictor_of_a_miniature_divides_by_its_heads():
    small = next(miniature.miniatures(steps_of(JEPA, VJEPA2Model, num_hidden_layers=8)[0])).config
    assert small.pred_hidden_size % small.pred_num_attention_heads == 0
    made = plan(JEPA, model_class=VJEPA2Model, method="lemon", num_hidden_layers=8)
    assert made.target_config.num_hidden_layers == 8


def sam_config():
    return SamConfig(
        vision_config={
            "hidden_size": 24, "num_attention_heads": 3, "mlp_dim": 40, "num_hidden_layers": 4, "image_size": 64,
            "patch_size": 8, "window_size": 3, "global_attn_indexes": [1, 3], "output_channels": 16, "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 24, "iou_head_hidden_dim": 16},
    )  # fmt: skip


@pytest.mark.parametrize("growth", [{"num_hidden_layers": 6}, {"hidden_size": 48}])
def test_sam_grows_where_its_neck_and_image_are_those_of_its_prompts(growth):
    config = sam_config()
    (step,) = steps_of(config, SamModel, "vision_config", **growth)
    small = next(miniature.miniatures(step)).config
    vision, prompts = small.vision_config, small.prompt_encoder_config
    assert vision.output_channels == prompts.hidden_size == 2 * vision.num_pos_feats
    assert (vision.image_size, vision.patch_size) == (prompts.image_size, prompts.patch_size) == (16, 4)
    torch.manual_seed(0)
    source = randomise(SamModel(config).double()).eval()
    grown, inputs = resize(source, method="lemon", vision_config=growth), random_inputs(source)
    with in_float64():
        before, after = outputs_of(source, inputs), outputs_of(grown, inputs)
    found = {name: difference(name, tensor, after[name]) for name, tensor in before.items()}
    assert "pred_masks" in found
    assert all(d is not None and d.absolute <= 1e-9 for d in found.values())


def test_a_head_on_a_backbone_keeps_the_layers_that_it_reads():
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(
            hidden_size=24, num_hidden_layers=12, num_attention_heads=3, image_size=28, patch_size=14, mlp_ratio=2,
            out_indices=[9, 10, 11, 12], apply_layernorm=True, reshape_hidden_states=False,
        ),
        reassemble_hidden_size=24, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    (step,) = steps_of(config, DepthAnythingForDepthEstimation, num_hidden_layers=24)
    small = next(miniature.miniatures(step)).config.backbone_config
    assert small.num_hidden_layers == 6
    assert small.out_indices == [3, 4, 5, 6]


@pytest.mark.parametrize(("kind", "cls", "runs"), [("vit", ViTModel, 1), ("bert", BertModel, 3)])
def test_an_image_that_cannot_be_run_is_run_once_and_a_text_at_every_length(kind, cls, runs, monkeypatch):
    tried = []

    def fails(model, inputs):
        tried.append(inputs)
        raise RuntimeError("too small")

    (step,) = steps_of(tiny_config(kind), cls, num_hidden_layers=8)
    one = next(miniature.miniatures(step))
    monkeypatch.setattr(proof, "miniatures", lambda step: [one])
    monkeypatch.setattr(proof, "_VERDICTS", type(proof._VERDICTS)())
    monkeypatch.setattr(proof, "_run", fails)
    with pytest.raises(UnsupportedFamilyError, match="too small"):
        proof.prove(step)
    assert len(tried) == runs
