"""Made-up examples: of every family's own inputs, the same under a seed, and like what they stand in for."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    SwinConfig,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

import hf_learngene
from hf_learngene import errors
from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.synthetic import can_synthesise, examples_needed, synthetic_examples, why_not
from hf_learngene.calibration.synthetic.count import WORK
from hf_learngene.calibration.synthetic.images import dead_leaves, pink_noise
from hf_learngene.calibration.synthetic.vocabulary import of_tokenizer
from hf_learngene.calibration.weights import GIVEN_COUNTS
from hf_learngene.pruning.running import run
from testing import trained_tokenizers
from testing.families import TEXT, VARIANTS, VISION, case_id, model_class, tiny_config, tiny_model


OTHERS = [
    ("dinov3_vit", "DINOv3ViTModel"), ("dpt", "DPTModel"), ("vitdet", "VitDetModel"), ("pixtral", "PixtralVisionModel"),
    ("aimv2_vision_model", "Aimv2VisionModel"), ("clip_text_model", "CLIPTextModel"), ("siglip_text_model", "SiglipTextModel"),
    ("tipsv2_text_model", "Tipsv2TextModel"), ("luke", "LukeForMaskedLM"), ("tapas", "TapasForMaskedLM"),
    ("markuplm", "MarkupLMForSequenceClassification"), ("visual_bert", "VisualBertModel"), ("eurobert", "EuroBertForMaskedLM"),
    ("jina_embeddings_v3", "JinaEmbeddingsV3ForMaskedLM"), ("nomic_bert", "NomicBertForMaskedLM"),
    ("modernvbert", "ModernVBertForMaskedLM"),
]  # fmt: skip
FAMILIES = [
    *((kind, {}, name) for kind, names in {**VISION, **TEXT}.items() for name in dict.fromkeys((names[0], names[-1]))),
    *VARIANTS,
    *((kind, {}, name) for kind, name in OTHERS),
]


def vit(channels=3, **sizes):
    config = ViTConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=1, num_channels=channels,
                       **{"image_size": 32, "patch_size": 8, **sizes})  # fmt: skip
    return ViTModel(config).eval()


def bert(tokens=200, **given):
    config = BertConfig(vocab_size=tokens, hidden_size=24, num_attention_heads=3, num_hidden_layers=1,
                        intermediate_size=40, **given)  # fmt: skip
    return BertModel(config).eval()


def rows_of(examples):
    return [{k: v.tolist() for k, v in row.items()} for row in examples]


# ---- every family


@pytest.mark.parametrize("case", FAMILIES, ids=case_id)
def test_a_model_takes_them(case):
    kind, extra, name = case
    model = tiny_model(kind, name, extra, dtype=torch.float32)
    assert why_not(model.config, type(model)) is None
    with Examples(synthetic_examples(model, count=12), model) as examples:
        batch = next(examples.batches())
        found = next(v for v in run(model, batch).values() if isinstance(v, torch.Tensor))
    assert len(batch[model.main_input_name]) == 12
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(
    ("kind", "name", "column"),
    [
        ("wav2vec2", "Wav2Vec2Model", "input_values"),
        ("audio-spectrogram-transformer", "ASTModel", "input_values"),
        ("videomae", "VideoMAEModel", "pixel_values"),
        ("vivit", "VivitModel", "pixel_values"),
        ("siglip2_vision_model", "Siglip2VisionModel", "pixel_attention_mask"),
        ("canine", "CanineModel", "input_ids"),
    ],
)
def test_what_cannot_be_made_up_is_named_from_config_and_class_alone(kind, name, column):
    cls = model_class(name)
    error = why_not(tiny_config(kind, cls.main_input_name), cls)
    assert isinstance(error, errors.SyntheticExamplesError)
    assert error.column == column
    assert name in str(error)
    assert "calibration=" in str(error)
    assert not can_synthesise(tiny_config(kind, cls.main_input_name), cls)


def test_a_model_whose_inputs_cannot_be_made_up_is_refused():
    config = Wav2Vec2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(errors.SyntheticExamplesError, match="Wav2Vec2Model reads 'input_values'.*calibration="):
        synthetic_examples(Wav2Vec2Model(config), count=2)


# ---- the same under a seed


@pytest.mark.parametrize("model", [vit(), bert()], ids=["images", "texts"])
def test_a_seed_gives_the_same_examples_and_fewer_are_the_first_of_more(model):
    more = rows_of(synthetic_examples(model, count=70, seed=3))
    assert rows_of(synthetic_examples(model, count=70, seed=3)) == more
    assert rows_of(synthetic_examples(model, count=5, seed=3)) == more[:5]
    other = rows_of(synthetic_examples(model, count=5, seed=4))
    assert all(a != b for a, b in zip(other, more, strict=False))
    assert rows_of(synthetic_examples(model, count=2, seed=-1)) == rows_of(
        synthetic_examples(model, count=2, seed=2**64 - 1)
    )


@pytest.mark.parametrize("model", [vit(), bert()], ids=["images", "texts"])
def test_the_callers_random_state_is_left_alone(model):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    synthetic_examples(model, count=4)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


# ---- images


def spectrum_of(images):
    """Slope of log power over log frequency, from 2 to 16 cycles an image."""
    grey = np.stack(images).mean(-1) / 255
    power = (np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2).mean(0)
    across = np.fft.fftfreq(64) * 64
    frequency = np.hypot(across[:, None], across[None]).round()
    bands = np.arange(2, 17)
    return np.polyfit(np.log(bands), np.log([power[frequency == f].mean() for f in bands]), 1)[0]


@pytest.mark.parametrize("make", [pink_noise, dead_leaves])
def test_images_have_the_spectrum_of_photographs(make):
    images = [make(np.random.default_rng(i), (64, 64), 3) for i in range(64)]
    assert images[0].dtype == np.uint8
    assert -3.2 < spectrum_of(images) < -1.6  # photographs: about -2; white noise: 0
    values = np.stack(images).reshape(-1, 3)
    assert values.std() > 30
    assert 0.5 < np.corrcoef(values.T).min() < 0.98  # little saturated, but coloured


def test_leaves_have_edges_where_noise_has_none():
    def tails(make):
        grey = np.stack([make(np.random.default_rng(i), (64, 64), 3) for i in range(32)]).mean(-1)
        steps = np.diff(grey, axis=2)
        return float((steps**4).mean() / (steps**2).mean() ** 2)

    assert tails(dead_leaves) > 3 * tails(pink_noise)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_images_have_the_models_channels_and_size(channels):
    model = vit(channels, image_size=(24, 40))
    pixels = synthetic_examples(model, count=3)["pixel_values"][:]
    assert pixels.shape == (3, channels, 24, 40)
    assert -1.0 <= float(pixels.min()) < -0.5 < 0.5 < float(pixels.max()) <= 1.0


def test_images_go_through_the_processor():
    size, mean, std = {"height": 32, "width": 32}, [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
    given = []

    class Processor(ViTImageProcessorPil):
        def __call__(self, images, **kwargs):
            given.extend(images)
            return super().__call__(images, **kwargs)

    processor = Processor(size=size, image_mean=mean, image_std=std)
    pixels = synthetic_examples(vit(), processor, count=70)["pixel_values"][:]
    assert all(isinstance(i, Image.Image) and i.mode == "RGB" and i.size == (37, 37) for i in given)
    assert len(given) == 70
    plain = ViTImageProcessorPil(size=size, do_normalize=False)(given, return_tensors="pt")["pixel_values"]
    wanted = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(pixels, wanted)


def test_a_processor_of_another_kind_is_refused():
    with pytest.raises(errors.SyntheticExamplesError, match="'pixel_values'.*BertTokenizer"):
        synthetic_examples(vit(), trained_tokenizers.bert(), count=2)
    with pytest.raises(errors.SyntheticExamplesError, match="'input_ids'.*ViTImageProcessorPil is no tokenizer"):
        synthetic_examples(bert(), ViTImageProcessorPil(), count=2)


# ---- texts


def test_texts_are_whole_words_framed_as_the_tokenizer_frames_them():
    tokenizer = trained_tokenizers.bert()
    examples = synthetic_examples(bert(len(tokenizer)), tokenizer, count=400)
    assert set(examples.column_names) == {"input_ids", "attention_mask", "token_type_ids"}
    rows = [row.tolist() for row in examples["input_ids"]]
    assert all(tokenizer.convert_ids_to_tokens(row[:1]) == ["[CLS]"] for row in rows)
    assert all(tokenizer.convert_ids_to_tokens(row[-1:]) == ["[SEP]"] for row in rows)
    assert {len(row) - 2 for row in rows} <= set(range(4, 41))
    special = set(tokenizer.all_special_ids)
    assert not any(special & set(row[1:-1]) for row in rows)
    words = [tokenizer.convert_ids_to_tokens(row[1:-1]) for row in rows]
    natural = [row for i, row in enumerate(words) if i % 8 != 7]
    assert all(word.isalpha() or len(word) == 1 for row in natural for word in row)
    assert any(word.startswith("##") for row in words[7::8] for word in row)
    assert 0.02 < np.mean([word == "," for row in natural for word in row[1:-1]]) < 0.08
    known = of_tokenizer(tokenizer, len(tokenizer)).words.tolist()
    places = {i: n for n, i in enumerate(known)}
    ranks = [places[i] for n, row in enumerate(rows) if n % 8 != 7 for i in row[1:-1] if i in places]
    expected = 1 / (np.arange(len(known)) + 3)
    found = np.bincount(ranks, minlength=len(known)) / len(ranks)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.02)


def test_texts_have_signs_where_the_vocabulary_has_any():
    tokenizer = trained_tokenizers.bert()
    vocabulary = of_tokenizer(tokenizer, len(tokenizer))
    signs = tokenizer.convert_ids_to_tokens([*vocabulary.comma, *vocabulary.stop, *vocabulary.marks])
    assert "," in signs
    assert not any(sign.isalnum() for sign in signs)
    letters = type(tokenizer)({t: i for i, t in enumerate([*trained_tokenizers.BERT, *"ACDEFGHIKLMNPQRSTVWY"])})
    proteins = of_tokenizer(letters, len(letters))
    assert (len(proteins.words), proteins.comma, proteins.stop, proteins.marks) == (20, (), (), ())
    rows = synthetic_examples(bert(len(letters)), letters, count=50)["input_ids"]
    assert {int(i) for row in rows for i in row[1:-1]} == set(proteins.words.tolist())


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
def test_words_are_found_in_any_kind_of_vocabulary(kind):
    tokenizer = getattr(trained_tokenizers, kind)()
    vocabulary = of_tokenizer(tokenizer, 10**6)
    written = [tokenizer.decode([i]).strip() for i in vocabulary.words.tolist()]
    assert "planted" in written or "tree" in written
    assert all(word.isalpha() for word in written)
    whole = tokenizer("the garden")["input_ids"]
    assert (vocabulary.before, vocabulary.after) == ((whole[0],), (whole[-1],))


def test_without_a_tokenizer_the_config_says_which_tokens_are_special():
    config = RobertaConfig(vocab_size=50, hidden_size=24, num_attention_heads=3, num_hidden_layers=1, bos_token_id=0,
                           intermediate_size=40, pad_token_id=1, eos_token_id=2, max_position_embeddings=20)  # fmt: skip
    rows = [r.tolist() for r in synthetic_examples(RobertaModel(config), count=200)["input_ids"]]
    assert all(r[0] == 0 and r[-1] == 2 and not {0, 1, 2} & set(r[1:-1]) for r in rows)
    assert max(map(len, rows)) == 18  # two of the positions are the padding's
    assert {i for r in rows for i in r} == {*range(50)} - {1}


def test_a_model_of_fewer_tokens_than_its_tokenizer_gets_its_own():
    tokenizer = trained_tokenizers.bert()
    rows = synthetic_examples(bert(60), tokenizer, count=100)["input_ids"]
    assert max(int(r.max()) for r in rows) < 60


# ---- how many


def test_more_tokens_an_example_need_fewer_examples():
    small, large = ViTConfig(image_size=32, patch_size=16), ViTConfig(image_size=224, patch_size=16)
    assert examples_needed(small) > examples_needed(large)
    wide = ViTConfig(image_size=224, intermediate_size=12288, hidden_size=3072)
    assert examples_needed(wide) > examples_needed(large)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    assert examples_needed(large, processor) == examples_needed(small)
    assert examples_needed(BertConfig(intermediate_size=6144)) > examples_needed(BertConfig())
    model = vit()
    assert examples_needed(model) == examples_needed(model.config) == len(synthetic_examples(model))


@pytest.mark.parametrize("width", [64, 384, 768, 1024])
def test_small_models_are_given_up_to_four_times_the_least(width):
    config = ViTConfig(hidden_size=width, intermediate_size=4 * width, num_attention_heads=4, image_size=64)
    tokens, count = 17, examples_needed(config)
    for_each = count * tokens / (4 * width)
    assert 6 <= for_each < 24 + tokens / (4 * width)
    work = count * tokens * 12 * 12 * width**2
    assert for_each >= 24 or for_each < 6.1 or work == pytest.approx(WORK, rel=0.01)


def test_a_shrunk_ffn_does_not_shrink_the_number():
    """The core of a learngene is shrunk further by as many examples as its ancestry was."""
    ancestry, core = (
        BertConfig(hidden_size=64, num_attention_heads=4, intermediate_size=n, max_position_embeddings=32)
        for n in (256, 64)
    )
    assert examples_needed(core) == examples_needed(ancestry)
    assert examples_needed(core, given_tokens=6 * 256 - 1) > 0
    # of a size at which the least is asked for, and no more
    stages = {"image_size": 224, "embed_dim": 256, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
    whole, shrunk = (examples_needed(SwinConfig(**stages, mlp_ratio=n)) for n in (4.0, 1.0))
    assert 32 < shrunk == whole < 2048


@pytest.mark.parametrize("width", [64, 384])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
def test_few_given_examples_are_filled_up_and_stand_for_several_each(width, share):
    config = ViTConfig(hidden_size=width, intermediate_size=4 * width, num_attention_heads=4, image_size=64)
    least = 6 * 4 * width
    given, alone = math.ceil(share * least), examples_needed(config)
    wanted = max(least - given, 17 * alone - GIVEN_COUNTS * given)
    assert 17 * examples_needed(config, given_tokens=given) == pytest.approx(0 if share == 1 else wanted, abs=2 * 17)


def test_texts_that_nothing_frames_are_told(caplog):
    config = RobertaConfig(
        vocab_size=200, hidden_size=24, num_attention_heads=3, num_hidden_layers=1
    )  # it names its tokens
    tokenizer = trained_tokenizers.bert()
    for model, processor in ((bert(tokens=len(tokenizer)), tokenizer), (RobertaModel(config), None), (vit(), None)):
        synthetic_examples(model, processor, count=2)
        assert "no tokenizer" not in caplog.text
    synthetic_examples(bert(), count=2)
    assert "no tokenizer at hand" in caplog.text


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "many"])
def test_a_count_is_a_positive_whole_number(count):
    with pytest.raises(errors.CalibrationError, match="count is a whole number of examples"):
        synthetic_examples(bert(), count=count)


def test_it_is_at_hand_at_the_top():
    assert hf_learngene.synthetic_examples is synthetic_examples


@pytest.mark.parametrize("model", [vit(intermediate_size=40), bert()], ids=["images", "texts"])
def test_a_model_shrunk_on_them_is_nearer_to_its_source_than_a_selected_one(model):
    def distance(small):
        with torch.no_grad():
            return float((small(**batch).last_hidden_state - wanted).norm())

    sizes = {"intermediate_size": 16}
    with Examples(synthetic_examples(model, count=32, seed=1), model) as unseen:
        batch = next(unseen.batches())
        wanted = model(**batch).last_hidden_state.detach()
    calibrated = hf_learngene.resize(model, calibration=synthetic_examples(model, count=256), **sizes)
    assert distance(calibrated) < 0.8 * distance(hf_learngene.resize(model, method="weight_selection", **sizes))
