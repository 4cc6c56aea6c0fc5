"""Hierarchies: whose width, heads and ffn each dimension counts, and what their blocks are like."""

from __future__ import annotations

import pytest
import transformers
from transformers import ConvNextConfig, ConvNextForImageClassification, SwinConfig, SwinForImageClassification

from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.axes import UNKNOWN
from hf_learngene.anatomy.stages import StageBlocks, stage_fields
from hf_learngene.errors import UnsupportedFamilyError
from testing.families import case_id, model_class, tiny_config, tiny_model
from testing.hierarchies import CASES


def tiny(kind, name, **extra):
    cls = model_class(name)
    return anatomy_of(tiny_config(kind, cls.main_input_name, **extra), cls)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_every_dimension_and_stage_is_known(case):
    kind, extra, name = case
    anatomy = tiny(kind, name, **extra)
    assert anatomy.num_stages == 4
    assert not [t.name for t in anatomy.tensors.values() if any(d.axis == UNKNOWN for d in t.dims)]
    for stage, part in enumerate(anatomy.parts):
        assert part.num_layers == anatomy.sizes[f"num_hidden_layers.{stage}"]
        assert {t.layer for t in part.tensors.values() if t.layer is not None} == set(range(part.num_layers))
    assert sum(len(part.tensors) for part in anatomy.parts) == len(anatomy.tensors)


def axes(anatomy, name):
    return [(d.name, d.side, d.parts) for d in anatomy.tensors[name].dims]


def test_axes_of_swin():
    """Widths are said by one number: a merging reads four parts of one stage and writes the next."""
    anatomy = anatomy_of(SwinConfig(), SwinForImageClassification)
    stage = "swin.encoder.layers.1"
    assert axes(anatomy, f"{stage}.blocks.0.attention.q_proj.weight") == [("heads.1", "out", 1), ("hidden.1", "in", 1)]
    assert axes(anatomy, f"{stage}.blocks.0.attention.o_proj.weight") == [("hidden.1", "out", 1), ("heads.1", "in", 1)]
    assert axes(anatomy, f"{stage}.blocks.0.mlp.fc1.weight") == [("ffn.1", "out", 1), ("hidden.1", "in", 1)]
    table = f"{stage}.blocks.1.attention.relative_position_bias.relative_position_bias_table"
    assert axes(anatomy, table) == [("fixed", "-", 1), ("head_count.1", "-", 1)]
    assert axes(anatomy, f"{stage}.downsample.reduction.weight") == [("hidden.2", "out", 1), ("hidden.1", "in", 4)]
    assert axes(anatomy, f"{stage}.downsample.norm.weight") == [("hidden.1", "each", 4)]
    assert axes(anatomy, "classifier.weight") == [("labels", "-", 1), ("hidden.3", "in", 1)]
    assert [anatomy.sizes[f"hidden_size.{s}"] for s in range(4)] == [96, 192, 384, 768]
    assert anatomy.linked == ("hidden_size",)


def test_each_block_of_convnext_has_a_scale_of_its_own():
    model = tiny_model("convnext", "ConvNextModel")
    anatomy = anatomy_of(model.config, type(model))
    scaled = {n: t.scaled_by.format(t.layer) for n, t in anatomy.tensors.items() if t.scaled_by}
    ends = ("pwconv2.weight", "pwconv2.bias")
    assert scaled == {
        n: f"{n.rpartition('.pwconv2')[0]}.layer_scale_parameter" for n in anatomy.tensors if n.endswith(ends)
    }


def test_axes_of_convnext():
    """There is no attention and no field for the ffn, and a depthwise convolution reads the residual stream."""
    anatomy = anatomy_of(ConvNextConfig(), ConvNextForImageClassification)
    block = "convnext.encoder.stages.2.layers.5"
    assert axes(anatomy, f"{block}.dwconv.weight") == [("hidden.2", "out", 1), *[("fixed", "-", 1)] * 3]
    assert axes(anatomy, f"{block}.pwconv1.weight") == [("ffn.2", "out", 1), ("hidden.2", "in", 1)]
    assert axes(anatomy, f"{block}.pwconv2.weight") == [("hidden.2", "out", 1), ("ffn.2", "in", 1)]
    down = "convnext.encoder.stages.2.downsampling_layer"
    assert axes(anatomy, f"{down}.0.weight") == [("hidden.1", "each", 1)]
    assert axes(anatomy, f"{down}.1.weight")[:2] == [("hidden.2", "out", 1), ("hidden.1", "in", 1)]
    assert anatomy.tensors[f"{block}.dwconv.weight"].inner
    assert not anatomy.tensors[f"{block}.pwconv2.weight"].inner
    assert anatomy.tensors[f"{block}.layer_scale_parameter"].kind == "scale"


def test_one_stage_is_a_model_of_one_width():
    anatomy = tiny("swin", "SwinForImageClassification")
    part = anatomy.of_stage(2)
    assert (part.sizes["hidden_size"], part.sizes["num_attention_heads"], part.sizes["head_dim"]) == (32, 2, 16)
    names = [d.name for d in part.tensors["swin.encoder.layers.1.downsample.reduction.weight"].dims]
    assert names == ["hidden", "hidden.1"]
    assert part.of_stage(2) is part
    assert part.parts == (part,)
    assert not part.num_stages


@pytest.mark.parametrize(
    ("kind", "name", "blocks"),
    [
        ("swin", "SwinModel", [StageBlocks(period=2)] * 4),
        # its last stage is one window, so nothing is shifted there
        ("swinv2", "Swinv2Model", [StageBlocks(period=2)] * 3 + [StageBlocks()]),
        ("convnext", "ConvNextModel", [StageBlocks()] * 4),
        ("hiera", "HieraModel", [StageBlocks()] + [StageBlocks(lead=1)] * 3),
    ],
)
def test_blocks_that_alternate_and_blocks_that_lead(kind, name, blocks):
    assert list(tiny(kind, name).blocks) == blocks


def test_a_family_with_one_width_has_no_stages():
    assert stage_fields(transformers.ViTConfig()) == {}
    assert not tiny("vit", "ViTModel").num_stages


def test_one_number_may_be_the_width_of_every_stage():
    """Swin2SR has stages of one width, and FocalNet a list beside the number that counts: what norms have tells."""
    small = {"depths": [2, 3, 2], "num_heads": [2, 2, 2], "embed_dim": 16, "image_size": 16, "window_size": 4}
    anatomy = anatomy_of(transformers.Swin2SRConfig(**small), transformers.Swin2SRModel)
    assert [anatomy.sizes[f"hidden_size.{s}"] for s in range(3)] == [16, 16, 16]
    assert anatomy.stage_fields["hidden_size"].factor == 1


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("focalnet", "FocalNetForImageClassification", r"no size field explains .*projection_in"),
        ("levit", "LevitForImageClassification", r"depths=\[2, 1, 3\] blocks not every one is a list of modules"),
        ("resnet", "ResNetForImageClassification", r"none of its stages has a normalisation over its width"),
        ("mobilevit", "MobileViTForImageClassification", r"convolutional or hierarchical family"),
    ],
)
def test_hierarchies_that_are_not_understood(kind, name, reason):
    cls = model_class(name)
    with pytest.raises(UnsupportedFamilyError, match=reason):
        anatomy_of(tiny_config(kind, "pixel_values"), cls)
