"""What a plan promises can be made, saved, loaded and run; what the family itself refuses is a typed error of the plan."""

from __future__ import annotations

import random

import pytest
import torch
import transformers

from hf_learngene import plan, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.errors import InvalidSizeError, LearngeneError, LossyGrowthError
from hf_learngene.resizing.sizes import canonical
from testing.families import (
    FIRST,
    VISION,
    WIDTH_STAYS,
    case_id,
    inputs_for,
    listed,
    model_class,
    tiny_config,
    tiny_model,
)


CHOICES = {
    "hidden_size": (8, 12, 16, 36, 48, 72),
    "num_hidden_layers": (1, 2, 4, 6),
    "intermediate_size": (1, 20, 80, 96),
    "num_attention_heads": (1, 2, 4, 6),
    "num_labels": (2, 3),
    "vocab_size": (64, 70),
    "max_position_embeddings": (36, 80),
    "image_size": (8, 16, (8, 12)),
    "patch_size": (2, 3, 6),
}
METHODS = ("auto", "auto", "auto", "weight_selection", "front", "lemon", "random")
CALIBRATIONS = ("auto", None, None)  # a refit costs ten times what all else does


def mixes(case, count):
    """Random requests, the same in every run: wider and shallower, deeper with a smaller ffn, other heads and grids."""
    kind, extra, name = case
    cls = model_class(name)
    anatomy = anatomy_of(tiny_config(kind, cls.main_input_name, **extra), cls)
    draw = random.Random(case_id(case))
    for _ in range(count):
        often = {"hidden_size", "num_hidden_layers", "intermediate_size"}
        asked = {n: draw.choice(v) for n, v in CHOICES.items() if draw.random() < (0.6 if n in often else 0.12)}
        given = {"method": draw.choice(METHODS), "calibration": draw.choice(CALIBRATIONS)}
        yield given | {n: v for n, v in asked.items() if canonical(anatomy, n)}


@pytest.mark.every_family
@pytest.mark.parametrize("case", listed(), ids=case_id)
def test_what_is_planned_can_be_made_and_run(case):
    kind, extra, name = case
    model = tiny_model(kind, name, extra, dtype=torch.float32)
    made = 0
    for asked in [
        *mixes(case, 2 if name in FIRST else 1),
        {"hidden_size": 48, "num_hidden_layers": 2, "calibration": None},
        *([{"num_hidden_layers": 2, "intermediate_size": 64, "calibration": None}] if kind in WIDTH_STAYS else []),
    ]:
        try:
            promised = plan(model, **asked)
        except LearngeneError:
            continue
        result = resize(model, **asked)
        result(**inputs_for(result))
        assert result.num_parameters() == promised.num_parameters, asked
        made += 1
    assert made, "no mix was possible"


@pytest.mark.parametrize(("kind", "name"), [("vit", "ViTModel"), ("deit", "DeiTModel"), ("rembert", "RemBertModel")])
@pytest.mark.parametrize("other", [{"num_hidden_layers": 2}, {"intermediate_size": 20}], ids=str)
def test_fields_that_repeat_the_width_follow_it_through_both_passes(kind, name, other):
    made = resize(tiny_model(kind, name), hidden_size=48, **other)
    assert made.config.learngene["passes"][-1]["method"] == "lemon"
    assert made.pooler.dense.weight.shape == (48, 48)
    if kind != "rembert":
        assert made.config.pooler_output_size == 48


def test_an_embedding_that_parts_from_the_width():
    model = tiny_model("electra", "ElectraForMaskedLM", {"embedding_size": 24})
    made = resize(model, hidden_size=16, embedding_size=20)
    assert made.electra.embeddings.word_embeddings.weight.shape[1] == 20
    assert made.electra.embeddings_project.weight.shape == (16, 20)
    with pytest.raises(LossyGrowthError, match="embedding_size=24 and hidden_size=48: they are one width"):
        plan(model, hidden_size=48, embedding_size=24)


# ---- refused by the family itself


@pytest.mark.parametrize(
    ("kind", "name", "asked", "message"),
    [
        ("bert", "BertForQuestionAnswering", {"num_labels": 3}, "num_labels 2 → 3.*too many values"),
        ("roformer", "RoFormerForQuestionAnswering", {"num_labels": 3}, "num_labels=3: RoFormer.* has 2, whatever its config"),
        ("roformer", "RoFormerModel", {"num_attention_heads": 8, "method": "random"}, "head_dim 8 → 3"),
        ("eurobert", "EuroBertModel", {"num_attention_heads": 5, "method": "random"}, "[Hh]ead|multiple|divisible|divisor"),
        ("dinov2", "Dinov2Model", {"image_size": (12, 16)}, "3×3 → 3×4 patches.*shape"),
        ("beit", "BeitModel", {"image_size": (12, 16)}, "3×3 → 3×4 patches.*shape"),
        ("vit", "ViTForMaskedImageModeling", {"image_size": (12, 16)}, "3×3 → 3×4 patches"),
    ],
)  # fmt: skip
def test_what_the_family_cannot_run_is_refused_by_the_plan(kind, name, asked, message):
    model = tiny_model(kind, name)
    for verb in (plan, resize):
        with pytest.raises(InvalidSizeError, match=message):
            verb(model, **asked)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("dinov2", "Dinov2Model"), ("dinov2_with_registers", "Dinov2WithRegistersModel"), ("beit", "BeitModel"),
     ("data2vec-vision", "Data2VecVisionModel")],
)  # fmt: skip
def test_a_grid_that_the_family_reads_as_another_is_refused(kind, name):
    """2 x 8 patches are as many as 4 x 4: DINOv2 runs, and finds each row of the table in another place."""
    with pytest.raises(InvalidSizeError, match="does not read a table over 2×8 patches as that grid.*2×2, for one"):
        plan(tiny_model(kind, name), image_size=(8, 32))


def test_a_source_that_reads_its_table_as_another_grid_keeps_its_grid():
    model = transformers.Dinov2Model(tiny_config("dinov2", "pixel_values", image_size=(8, 32))).eval()
    assert resize(model, hidden_size=16)(torch.zeros(1, 3, 8, 32)).last_hidden_state.shape == (1, 17, 16)
    with pytest.raises(InvalidSizeError, match="does not read its own table over 2×8 patches"):
        plan(model, image_size=16)


IMAGES = [
    {"image_size": 16}, {"image_size": (16, 16)}, {"patch_size": 3}, {"patch_size": 5}, {"patch_size": (4, 4), "image_size": 8},
    {"image_size": (8, 32)}, {"image_size": (12, 16)}, {"patch_size": (4, 3)},
]  # fmt: skip
SQUARE = IMAGES[:5]


@pytest.mark.parametrize("asked", IMAGES, ids=str)
@pytest.mark.parametrize("name", [names[-1] for names in VISION.values()])
def test_other_images_and_patches_run_or_are_refused(name, asked, tmp_path):
    kind = next(k for k, names in VISION.items() if names[-1] == name)
    model = tiny_model(kind, name, dtype=torch.float32)
    try:
        made = resize(model, **asked)
    except InvalidSizeError:
        assert asked not in SQUARE
        return
    made.save_pretrained(tmp_path)
    loaded = type(made).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), loaded.parameters(), strict=True))
    assert torch.isfinite(loaded(**inputs_for(loaded))[0]).all()


def test_a_config_that_changes_when_it_is_loaded_is_refused():
    """Reformer's config counts its layers anew from another field."""

    class Forgetful(transformers.ViTConfig):
        @classmethod
        def from_dict(cls, config_dict, **kwargs):
            return super().from_dict({**config_dict, "intermediate_size": 40}, **kwargs)

    class Model(transformers.ViTModel):
        config_class = Forgetful

    config = Forgetful(**{k: v for k, v in tiny_config("vit", "pixel_values").to_dict().items() if k != "model_type"})
    with pytest.raises(InvalidSizeError, match="intermediate_size=20 comes back as 40"):
        plan(config, model_class=Model, intermediate_size=20)


NEAREST = [
    (
        "whisper",
        "WhisperForAudioClassification",
        3,
        "12 and 18",
        "divisible by 2 for sinusoidal",
    ),  # when it initialises
    ("whisper", "WhisperForAudioClassification", 1, "14 and 16", "divisible by 2 for sinusoidal"),
    ("roformer", "RoFormerModel", 3, "12 and 18", "is invalid for input"),  # when it runs
    ("wav2vec2", "Wav2Vec2Model", 3, "12 and 24", "divisible by groups"),  # when it is built
]


@pytest.mark.parametrize(("kind", "name", "heads", "near", "why"), NEAREST)
def test_a_width_that_the_family_refuses_is_refused_by_the_plan_with_the_nearest_that_work(
    kind, name, heads, near, why
):
    model = tiny_model(kind, name, dtype=torch.float32)
    asked = {"num_attention_heads": heads, "method": "weight_selection"}
    for verb in (plan, resize):
        with pytest.raises(InvalidSizeError, match=f"{why}.*Nearest widths that work: {near}"):
            verb(model, hidden_size=15, **asked)
    for width in map(int, near.split(" and ")):
        assert plan(model, hidden_size=width, **asked).target_config.hidden_size == width


def test_no_width_is_named_where_another_size_is_to_blame():
    """RoFormer has two labels for its spans, at any width."""
    model = tiny_model("roformer", "RoFormerForQuestionAnswering", dtype=torch.float32)
    with pytest.raises(InvalidSizeError, match="Leave it out.$"):
        plan(model, hidden_size=16, num_labels=5, calibration=None)
