"""Models of several parts, resized section by section: two towers, and a backbone under a head."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from transformers import ViTImageProcessorPil

from hf_learngene import AutoLearngene, AutoModel, plan, resize, verify
from hf_learngene.anatomy import anatomy_of
from hf_learngene.errors import (
    InvalidSizeError,
    LossyGrowthError,
    SyntheticExamplesError,
    UnknownOptionError,
    UnsupportedFamilyError,
)
from hf_learngene.hub.card import model_card
from hf_learngene.hub.save import save_resized
from hf_learngene.resizing.outputs import difference, in_float64, outputs_of, random_inputs
from testing.checkpoints import words
from testing.towers import PARTS, parted_config, parted_model


TOWERS = ("CLIPModel", "SiglipModel", "Siglip2Model", "ChineseCLIPModel", "BlipModel", "BlipForImageTextRetrieval")
# Of these the width stays: what joins the parts would start anew, or normalises with an epsilon of its own.
KEPT_WIDTH = {
    ("VisionEncoderDecoderModel", "encoder"),
    ("OwlViTForObjectDetection", "text_config"),
    ("XCLIPModel", "vision_config"),
}
# Its cross-attention is not reached without an image under the text.
KEPT_DEPTH = {("BlipModel", "text_config")}


@pytest.fixture(scope="module")
def clip():
    return parted_model("CLIPModel")


def growth(name: str, section: str) -> dict[str, int]:
    """Twice the width, more layers and a wider ffn, where the class grows them."""
    sizes = anatomy_of(parted_config(name), getattr(transformers, name), section)
    found = {"mlp_ratio": 3} if "mlp_ratio" in sizes.fields else {"intermediate_size": 96}
    if (name, section) not in KEPT_WIDTH:
        found["hidden_size"] = 2 * sizes.sizes["hidden_size"]
    if (name, section) not in KEPT_DEPTH:
        found["num_hidden_layers"] = sizes.num_layers + 2
    return found


def moved(source, other, inputs, **options) -> float:
    """Largest relative difference of all outputs but the states of single layers."""
    with in_float64():
        first, second = outputs_of(source, inputs, **options), outputs_of(other, inputs, **options)
    found = {n: difference(n, a, second[n]) for n, a in first.items() if "hidden_states" not in n.split(".")}
    assert None not in found.values(), found
    return max(d.relative for d in found.values())


@pytest.mark.parametrize(("name", "section"), PARTS)
def test_a_part_that_grows_leaves_every_output(name, section):
    source = parted_model(name)
    grown = resize(source, method="lemon", **{section: growth(name, section)})
    part = getattr(grown.config, section)
    assert part.num_hidden_layers > getattr(source.config, section).num_hidden_layers or (name, section) in KEPT_DEPTH
    limit = 1e-10 if not anatomy_of(source.config, type(source), section).post_norm else 1e-11
    assert moved(source, grown, random_inputs(source)) < limit


@pytest.mark.parametrize("name", TOWERS)
def test_both_parts_grow_in_one_call(name):
    source = parted_model(name)
    request = {section: growth(name, section) for section in ("vision_config", "text_config")}
    grown = resize(source, method="lemon", **request)
    for section, sizes in request.items():
        assert {n: getattr(getattr(grown.config, section), n) for n in sizes} == sizes
    assert moved(source, grown, random_inputs(source)) < 1e-11
    assert verify(source, grown).function_preserving


@pytest.mark.parametrize("name", TOWERS)
def test_the_hidden_states_of_both_parts_stay(name):
    source = parted_model(name)
    grown = resize(source, method="lemon", vision_config={"hidden_size": 48}, text_config={"intermediate_size": 80})
    inputs = random_inputs(source)
    with in_float64():
        first, second = (outputs_of(m, inputs, output_hidden_states=True) for m in (source, grown))
    states = [n for n in first if "hidden_states" in n]
    assert len(states) >= 4
    assert max(difference(n, first[n], second[n]).relative for n in states) < 1e-11


@pytest.mark.parametrize("name", TOWERS)
def test_what_is_selected_back_is_the_source(name):
    """Consecutive selection takes the first copies; columns split in two are found again by growing `equal` and doubling."""
    source = parted_model(name)
    widths = {s: getattr(source.config, s).hidden_size for s in ("vision_config", "text_config")}
    grown = resize(source, method="lemon", symmetry="equal", **{s: {"hidden_size": 2 * w} for s, w in widths.items()})
    narrow = {s: {"hidden_size": w} for s, w in widths.items()}
    back = resize(grown, method="weight_selection", element_selection="consecutive", **narrow)
    parts = [anatomy_of(source.config, type(source), section) for section in widths]
    axes = ("hidden", "heads", "ffn")
    for (key, a), b in zip(source.named_parameters(), back.parameters(), strict=True):
        halved = sum(d.side == "in" and d.axis in axes for part in parts for d in part.tensors[key].dims)
        torch.testing.assert_close(b, a * 0.5**halved, msg=key)


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel", "ChineseCLIPModel", "BlipForImageTextRetrieval"])
def test_layers_that_were_inserted_are_taken_out_again(name):
    source = parted_model(name)
    deeper = {s: {"num_hidden_layers": 5} for s in ("vision_config", "text_config")}
    grown = resize(source, method="lemon", **deeper)
    first = [
        [i for i, layer in enumerate(step.task.layer_map) if not layer.inserted]
        for step in plan(source, method="lemon", **deeper).passes
    ]
    assert first[0] == first[1]
    back = resize(grown, method="layers", layer_map=first[0], **{s: {"num_hidden_layers": 3} for s in deeper})
    after = dict(back.named_parameters())
    for key, tensor in source.named_parameters():
        if "LayerNorm" not in key:  # of a post-norm layer, the last copy carries the affine part
            assert torch.equal(after[key], tensor), key


@pytest.mark.parametrize(("name", "section"), PARTS)
def test_a_part_that_shrinks_runs(name, section):
    source = parted_model(name)
    stages = len(getattr(getattr(source.config, section), "out_indices", None) or ()) > 1
    asked = {"hidden_size": 16} if stages else {"hidden_size": 16, "num_hidden_layers": 2}
    small = resize(source, method="weight_selection", **{f"{section}.{n}": v for n, v in asked.items()})
    assert {n: getattr(getattr(small.config, section), n) for n in asked} == asked
    assert all(bool(t.isfinite().all()) for t in outputs_of(small, random_inputs(source)).values())


@pytest.mark.parametrize(
    "name", ["CLIPModel", "SiglipModel", "BlipForImageTextRetrieval", "DepthAnythingForDepthEstimation"]
)
def test_the_sizes_of_a_part_that_it_has_give_the_same_model(name):
    source = parted_model(name)
    sections = [s for n, s in PARTS if n == name]
    same = resize(source, **{s: {"hidden_size": getattr(source.config, s).hidden_size} for s in sections})
    for (key, a), (other, b) in zip(source.named_parameters(), same.named_parameters(), strict=True):
        assert key == other
        assert torch.equal(a, b), key
    for key, tensor in resize(source).named_parameters():
        assert torch.equal(tensor, dict(source.named_parameters())[key])


@pytest.mark.parametrize("name", [*TOWERS, "VitPoseForPoseEstimation", "DepthAnythingForDepthEstimation"])
def test_a_resized_model_is_saved_with_its_nested_configs(name, tmp_path):
    source = parted_model(name)
    made = resize(source, method="lemon", **{s: growth(name, s) for n, s in PARTS if n == name})
    save_resized(made, tmp_path / "saved")
    again = type(source).from_pretrained(tmp_path / "saved", dtype=torch.float64)
    for (key, a), b in zip(made.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert moved(made, again, random_inputs(source)) < 1e-13
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    for section in (s for n, s in PARTS if n == name):
        for size, value in growth(name, section).items():
            assert written[section][size] == value


class TestHowSizesAreNamed:
    def test_a_mapping_is_the_same_as_names_with_a_dot(self, clip):
        one = plan(clip, vision_config={"hidden_size": 48}, text_config={"num_hidden_layers": 4})
        other = plan(clip, **{"vision_config.hidden_size": 48, "text_config.num_hidden_layers": 4})
        assert one.target_config.to_dict() == other.target_config.to_dict()
        assert one.sizes == {"text_config.num_hidden_layers": 4, "vision_config.hidden_size": 48}

    def test_a_size_without_its_section_is_refused(self, clip):
        said = (
            r"hidden_size alone does not say which: text_config \(hidden_size=32\), vision_config \(hidden_size=24\).*"
        )
        with pytest.raises(UnknownOptionError, match=said + r"'vision_config.hidden_size': 384"):
            resize(clip, hidden_size=48)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"vison_config.hidden_size": 48}, r"no section 'vison_config'; .*Did you mean 'vision_config'"),
            ({"vision_config.hiden_size": 48}, r"no size field 'hiden_size'.*Did you mean 'hidden_size'"),
            ({"vision_config": {"hiden_size": 48}}, r"no size field 'hiden_size'.*Did you mean 'hidden_size'"),
            ({"vision_config": {"hidden_size": 48}, "vision_config.hidden_size": 72}, "given twice"),
            ({"vision_config": {}}, r"vision_config=\{\} asks for nothing"),
            ({"params": 0.5}, r"params= does not say which part.*vision_config"),
            ({"method": "layers", "layer_map": [0]}, r"method= does not say which part"),
        ],
    )
    def test_what_names_no_part_is_refused(self, clip, given, said):
        with pytest.raises(UnknownOptionError, match=said):
            resize(clip, **given)

    def test_a_section_that_a_class_does_not_read_is_refused(self):
        config = parted_config("CLIPModel")
        with pytest.raises(UnknownOptionError, match="CLIPForImageClassification builds nothing from `text_config`"):
            plan(config, model_class=transformers.CLIPForImageClassification, **{"text_config.hidden_size": 64})
        with pytest.raises(
            UnknownOptionError, match="has no section 'vision_config'; its sizes stand in the config itself"
        ):
            plan(transformers.ViTConfig(), **{"vision_config.hidden_size": 384})

    def test_kept_tokens_are_those_of_the_texts(self, clip):
        small = resize(clip, kept_tokens=list(range(40)), vision_config={"num_hidden_layers": 4}, method="lemon")
        assert (small.config.text_config.vocab_size, small.config.vision_config.num_hidden_layers) == (40, 4)
        inputs = {**random_inputs(clip), "input_ids": torch.randint(4, 40, (2, 16))}
        assert moved(clip, small, inputs) < 1e-10
        only = resize(clip, kept_tokens=list(range(40)))
        assert only.config.learngene["passes"][0]["method"] == "kept_tokens"
        assert moved(clip, only, inputs) == 0

    @pytest.mark.parametrize("name", ["hidden_size", "backbone_config.hidden_size"])
    def test_a_backbone_needs_no_name(self, name):
        made = plan(parted_config("VitPoseForPoseEstimation"), method="lemon", **{name: 48},
                    model_class=transformers.VitPoseForPoseEstimation)  # fmt: skip
        assert made.target_config.backbone_config.hidden_size == 48
        assert made.sizes == {"hidden_size": 48}

    def test_plan_record_and_card_say_the_sections(self, clip):
        request = {"vision_config": {"hidden_size": 48}, "text_config": {"num_hidden_layers": 4}}
        made = plan(clip, **request)
        assert "text_config.num_hidden_layers 3 → 4, vision_config.hidden_size 24 → 48" in str(made)
        assert "text_config layers: 0–2; new 3 (a copy of 2)" in str(made)
        grown = resize(clip, **request)
        assert grown.config.learngene["sizes"]["vision_config.hidden_size"] == 48
        assert [p["method"] for p in grown.config.learngene["passes"]] == ["lemon", "lemon"]
        card = model_card(grown, plan=made)
        assert "| vision_config.hidden_size | 24 | 48 |" in card
        assert "| text_config.num_hidden_layers | 3 | 4 |" in card

    def test_a_checkpoint_is_resized_by_the_sections_of_its_config(self, tmp_path):
        parted_model("CLIPModel", torch.float32).save_pretrained(tmp_path)
        small = AutoModel.from_pretrained_resized(
            tmp_path, vision_config={"hidden_size": 16}, text_config={"num_hidden_layers": 2}, calibration=None
        )
        assert (small.config.vision_config.hidden_size, small.config.text_config.num_hidden_layers) == (16, 2)


class TestWhatIsSavedBeside:
    @pytest.fixture
    def folder(self, clip, tmp_path):
        folder = tmp_path / "clip"
        clip.save_pretrained(folder)
        words().save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder)
        return folder

    def test_tokenizer_and_image_processor_go_with_both_towers(self, folder, tmp_path):
        grown = AutoModel.from_pretrained_resized(folder, text_config={"num_hidden_layers": 4})
        save_resized(grown, tmp_path / "out", source=folder)
        names = {file.name for file in (tmp_path / "out").iterdir()}
        assert {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"} <= names
        assert "AutoProcessor" in (tmp_path / "out" / "README.md").read_text()

    def test_the_image_processor_follows_the_images(self, folder, tmp_path):
        other = AutoModel.from_pretrained_resized(folder, vision_config={"image_size": 16})
        save_resized(other, tmp_path / "out", source=folder)
        settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
        assert settings["size"] == {"height": 16, "width": 16}
        assert "position embeddings are interpolated" in (tmp_path / "out" / "README.md").read_text()

    def test_the_tokenizer_follows_the_positions(self, folder, tmp_path):
        shorter = AutoModel.from_pretrained_resized(
            folder, text_config={"max_position_embeddings": 20}, calibration=None
        )
        save_resized(shorter, tmp_path / "out", source=folder)
        assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 20


class TestCalibration:
    def test_given_pairs_shrink_both_towers(self):
        source = parted_model("CLIPModel", torch.float32)
        pairs = [{n: v[0] for n, v in random_inputs(source, seed=i, tokens=12).items()} for i in range(64)]
        request = {"vision_config": {"hidden_size": 16}, "text_config": {"hidden_size": 24}}
        small = resize(source, calibration=pairs, **request)
        assert [p["method"] for p in small.config.learngene["passes"]] == ["calibrated", "calibrated"]
        picked = resize(source, method="weight_selection", **request)
        inputs = random_inputs(source, seed=100, tokens=12)
        wanted, *found = (outputs_of(m, inputs)["image_embeds"] for m in (source, small, picked))
        near = [float(torch.nn.functional.cosine_similarity(wanted, f).mean()) for f in found]
        assert near[0] > near[1]

    def test_made_up_pairs_do_not_exist(self, clip, caplog):
        small = resize(clip, vision_config={"hidden_size": 16})
        assert small.config.learngene["passes"][0]["method"] == "weight_selection"
        with pytest.raises(SyntheticExamplesError, match="an image beside each text"):
            resize(clip, method="calibrated", vision_config={"hidden_size": 16})

    def test_a_backbone_is_calibrated_under_its_head(self):
        source = parted_model("VitPoseForPoseEstimation", torch.float32)
        small = resize(source, hidden_size=16, calibration_size=32)
        assert small.config.learngene["passes"][0]["method"] == "calibrated"


class TestWhatIsRefused:
    def test_a_width_that_would_part_an_encoder_from_its_decoder(self):
        config, cls = parted_config("VisionEncoderDecoderModel"), transformers.VisionEncoderDecoderModel
        with pytest.raises(LossyGrowthError, match=r"`enc_to_dec_proj.weight` \(24, 48\) would start anew"):
            plan(config, model_class=cls, method="lemon", **{"encoder.hidden_size": 48})
        with pytest.raises(UnsupportedFamilyError, match="stays as it is"):
            plan(config, model_class=cls, **{"decoder.num_hidden_layers": 2})

    def test_an_embedding_that_two_towers_share_is_one_size(self):
        with pytest.raises(InvalidSizeError, match="not saved, loaded and run"):
            plan(parted_config("SiglipModel"), model_class=transformers.SiglipModel, calibration=None,
                 **{"text_config.projection_size": 16})  # fmt: skip

    @pytest.mark.parametrize("kind", ["sws", "condensed"])
    def test_a_learngene_of_two_towers(self, clip, kind):
        with pytest.raises(UnsupportedFamilyError, match=r"several parts.*vision_config"):
            AutoLearngene.from_ancestry(clip, learngene_type=kind)


def test_a_backbone_of_another_dtype_than_its_head_is_planned():
    """A backbone is built in its own config's dtype, which a model that was cast leaves behind."""
    model = parted_model("VitPoseForPoseEstimation", torch.float32)
    model.config.backbone_config.dtype = torch.float64
    made = plan(model, num_hidden_layers=6)
    assert made.target_config.backbone_config.num_hidden_layers == 6


def test_a_sorted_core_leaves_no_dtype_behind():
    model = parted_model("VitPoseForPoseEstimation", torch.float32)
    learngene = AutoLearngene.from_ancestry(model, learngene_type="condensed", calibration_size=72)
    made = learngene.initialize(num_hidden_layers=model.config.backbone_config.num_hidden_layers + 1)
    assert made.config.backbone_config.dtype == made.dtype == torch.float32
