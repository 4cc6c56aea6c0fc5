"""Which nested configs a class builds from, and what is known of one of them beside the others."""

from __future__ import annotations

import pytest
import transformers
from transformers import BertConfig, BertModel, CLIPConfig, CLIPForImageClassification, CLIPModel

from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.inputs import example_inputs
from hf_learngene.anatomy.sections import followers_of, sections_of
from hf_learngene.anatomy.types import FIXED
from hf_learngene.errors import UnsupportedFamilyError
from testing.towers import IMAGES, parted_config, parted_model


def part_of(name: str, section: str):
    return anatomy_of(parted_config(name), getattr(transformers, name), section)


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("CLIPModel", ("text_config", "vision_config")),
        ("FlavaModel", ("image_config", "text_config", "multimodal_config")),
        ("VitPoseForPoseEstimation", ("backbone_config",)),
        ("VisionEncoderDecoderModel", ("encoder", "decoder")),
    ],
)
def test_a_class_builds_from_the_sections_whose_sizes_change_it(name, sections):
    assert sections_of(parted_config(name), getattr(transformers, name)) == sections


def test_a_section_that_a_class_does_not_read_is_none_of_its_own():
    config = parted_config("CLIPModel")
    assert sections_of(config, CLIPForImageClassification) == ("vision_config",)
    assert sections_of(BertConfig(), BertModel) == ("",)


def test_without_a_section_several_parts_have_no_anatomy():
    with pytest.raises(
        UnsupportedFamilyError, match=r"text_config \(hidden_size=32\), vision_config \(hidden_size=24\)"
    ):
        anatomy_of(parted_config("CLIPModel"), CLIPModel)


@pytest.mark.parametrize("section", ["vision_config", "text_config"])
@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel", "ChineseCLIPModel", "BlipForImageTextRetrieval"])
def test_the_other_part_is_fixed(name, section):
    anatomy = part_of(name, section)
    container = anatomy.containers[0]
    assert len(anatomy.containers) == 1
    assert ("vision" in container) == (section == "vision_config")
    layers = [t for t in anatomy.tensors.values() if t.layer is not None]
    assert layers
    assert all(t.name.startswith(f"{container}.") for t in layers)
    inside = ".encoder.layer"
    others = [
        t for t in anatomy.tensors.values() if inside in t.name and t.layer is None and "crossattention" not in t.name
    ]
    assert others
    assert {d.axis for t in others for d in t.dims} == {FIXED}
    assert {n.axis for n in anatomy.norms if inside in n.name and n.layer is None} == {FIXED}


def test_a_tower_beside_another_is_what_it_is_alone():
    config = parted_config("SiglipModel")
    alone = anatomy_of(config.vision_config, transformers.SiglipVisionModel)
    beside = part_of("SiglipModel", "vision_config")
    for flag in ("rotary", "normalised_heads", "post_norm", "scales_epsilon", "grid", "sizes"):
        assert getattr(alone, flag) == getattr(beside, flag), flag
    for tensor in alone.tensors.values():
        other = beside.tensors[f"vision_model.{tensor.name.removeprefix('vision_model.')}"]
        for fact in ("dims", "kind", "role", "layer", "writes_stream", "reads_norm", "scaled_by"):
            assert getattr(tensor, fact) == getattr(other, fact), (tensor.name, fact)


@pytest.mark.parametrize(
    ("name", "section", "followers"),
    [
        ("CLIPModel", "vision_config", ()),
        ("SiglipModel", "vision_config", ("text_config.projection_size",)),
        ("BlipForImageTextRetrieval", "vision_config", ("text_config.encoder_hidden_size",)),
        ("BlipModel", "vision_config", ("text_config.encoder_hidden_size",)),
        ("BlipModel", "text_config", ()),
        ("DepthAnythingForDepthEstimation", "backbone_config", ("reassemble_hidden_size",)),
    ],
)
def test_what_repeats_a_width_elsewhere_follows_where_the_model_needs_it(name, section, followers):
    assert part_of(name, section).followers == followers


def test_a_field_of_the_same_value_that_nothing_needs_stays():
    config = CLIPConfig(
        vision_config=IMAGES, text_config=parted_config("CLIPModel").text_config.to_dict(), projection_dim=24
    )
    assert followers_of(CLIPModel, config, "vision_config") == ()


def test_a_model_of_two_towers_is_given_both_inputs():
    for name in ("CLIPModel", "BlipModel", "Siglip2Model", "VisionTextDualEncoderModel"):
        model = parted_model(name)
        found = example_inputs(model, model.config)
        assert {"input_ids", "pixel_values"} <= found.keys()
        model(**found)


@pytest.mark.parametrize(
    ("name", "section", "said"),
    [
        ("VisionEncoderDecoderModel", "decoder", "decoder that writes its texts, and stays as it is"),
        ("BlipForConditionalGeneration", "text_config", "decoder that writes its texts, and stays as it is"),
    ],
)
def test_a_decoder_is_refused_with_its_reason(name, section, said):
    with pytest.raises(UnsupportedFamilyError, match=said):
        part_of(name, section)
