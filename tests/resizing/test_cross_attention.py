"""A text encoder with a cross-attention to states that its caller gives (BLIP's): it is exact with them and without."""

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import BlipTextConfig, BlipTextLMHeadModel, BlipTextModel

from hf_learngene import plan, resize, synthetic_examples
from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.inputs import example_inputs
from hf_learngene.errors import CalibrationError, LossyGrowthError, SyntheticExamplesError, UnsupportedFamilyError
from testing.families import tiny_config, tiny_model


def texts(**extra):
    return tiny_model("blip_text_model", "BlipTextModel", extra)


def given(count=2, tokens=7, width=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (count, 9), generator=generator)
    return {
        "input_ids": ids,
        "encoder_hidden_states": torch.randn(count, tokens, width, generator=generator).to(dtype),
    }


def examples(count=64):
    batch = given(count, dtype=torch.float32, seed=1)
    return [{name: values[i] for name, values in batch.items()} for i in range(count)]


@torch.no_grad()
def last(model, **inputs):
    return model(**inputs).last_hidden_state


@pytest.mark.parametrize("width", [16, 24])  # of the states: another than the texts', and the same
@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 48},
        {"hidden_size": 48, "num_attention_heads": 3},
        {"intermediate_size": 80},
        {"num_hidden_layers": 5},
        {"hidden_size": 48, "num_hidden_layers": 6},
    ],
    ids=str,
)
def test_grows_without_loss(sizes, width):
    model, batch = texts(encoder_hidden_size=width), given(width=width)
    grown = resize(model, **sizes)
    assert grown.config.encoder_hidden_size == width
    for inputs in (batch, {**batch, "is_decoder": True}, {"input_ids": batch["input_ids"]}):
        before, after = last(model, **inputs), last(grown, **inputs)
        copies = after.shape[-1] // before.shape[-1]
        assert torch.allclose(after, before.repeat(1, 1, copies), atol=1e-9, rtol=0)


def test_the_cross_attention_is_reached():
    config = tiny_config("blip_text_model")
    anatomy = anatomy_of(config, BlipTextModel)
    crossing = [t for t in anatomy.templates.values() if ".crossattention." in t.template]
    assert len(crossing) == 10
    assert all(t.traced for t in crossing)
    assert {t.role for t in crossing} == {"q", "k", "v", "o", ""}
    assert example_inputs(BlipTextModel(config), config)["encoder_hidden_states"].shape[-1] == 16


def test_without_cross_attention_no_states_are_given():
    config = tiny_config("blip_text_model", is_decoder=False)
    assert "encoder_hidden_states" not in example_inputs(BlipTextModel(config), config)
    assert plan(config, model_class=BlipTextModel, num_hidden_layers=5).target_config.num_hidden_layers == 5


def test_what_stays_refused():
    config = BlipTextConfig()
    with pytest.raises(UnsupportedFamilyError, match="BlipTextLMHeadModel is a decoder-only model"):
        plan(config, model_class=BlipTextLMHeadModel, hidden_size=1536)
    with pytest.raises(LossyGrowthError, match="only whole multiples of 24 are exact"):
        plan(tiny_config("blip_text_model"), model_class=BlipTextModel, hidden_size=40, num_attention_heads=5)


@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 2}, {"intermediate_size": 24}], ids=str)
def test_shrinks_on_texts_and_states(sizes):
    model, held_back = texts().float(), given(16, dtype=torch.float32, seed=2)
    fitted = resize(model, calibration=examples(), **sizes)
    selected = resize(model, method="weight_selection", calibration=None, **sizes)
    near, far = ((last(m, **held_back) - last(model, **held_back)).norm() for m in (fitted, selected))
    assert near < 0.5 * far


def test_texts_alone_do_not_calibrate():
    model = texts().float()
    alone = [{"input_ids": e["input_ids"]} for e in examples(8)]
    for calibration in (alone, DataLoader(alone, batch_size=4)):
        with pytest.raises(CalibrationError, match="the examples have no 'encoder_hidden_states'"):
            resize(model, num_hidden_layers=2, calibration=calibration)
    with pytest.raises(SyntheticExamplesError, match=r"'encoder_hidden_states' cannot be made up.*with that column"):
        synthetic_examples(model)
