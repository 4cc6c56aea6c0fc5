"""What `save_resized` and `push_resized` add by themselves: the card, and what prepares the model's inputs."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertForMaskedLM,
    BertTokenizer,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hf_learngene import AutoModelForMaskedLM, push_resized, resize, save_resized, trim_tokenizer
from hf_learngene.errors import UnknownOptionError, VocabularyError
from hf_learngene.hub import push
from hf_learngene.hub.origin import origin


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "b"]
PLAIN = ["config.json", "model.safetensors"]


@pytest.fixture
def text(bert_folder):
    """A checkpoint with a licence and a tokenizer."""
    BertTokenizer({word: i for i, word in enumerate(WORDS)}, model_max_length=40).save_pretrained(bert_folder)
    (bert_folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return bert_folder


@pytest.fixture
def images(vit_folder):
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(vit_folder)
    return vit_folder


def test_a_resized_model_is_saved_with_card_and_tokenizer(text, tmp_path):
    for number, model in enumerate(
        (
            AutoModelForMaskedLM.from_pretrained_resized(text, max_position_embeddings=20),
            resize(BertForMaskedLM.from_pretrained(text), max_position_embeddings=20),
        )
    ):
        out = save_resized(model, tmp_path / f"small{number}")
        assert AutoTokenizer.from_pretrained(out).model_max_length == 20
        card = ModelCard.load(out / "README.md")
        assert card.data.license == "mit"
        assert f'AutoTokenizer.from_pretrained("small{number}")' in card.text
        again = BertForMaskedLM.from_pretrained(out)  # and once more, from where it lies now
        assert AutoTokenizer.from_pretrained(
            save_resized(resize(again, hidden_size=16, calibration=None), tmp_path / f"b{number}")
        )


def test_a_resized_model_is_saved_with_its_image_processor(images, tmp_path):
    model = resize(ViTForImageClassification.from_pretrained(images), image_size=20)
    out = save_resized(model, tmp_path / "small")
    assert AutoImageProcessor.from_pretrained(out, backend="pil").size == {"height": 20, "width": 20}
    assert "AutoImageProcessor" in (out / "README.md").read_text()


def test_nothing_is_taken_for_a_model_that_was_not_resized(text, tmp_path):
    out = save_resized(BertForMaskedLM.from_pretrained(text), tmp_path / "same")
    assert sorted(os.listdir(out)) == PLAIN
    out = save_resized(BertForMaskedLM.from_pretrained(text), tmp_path / "named", source=text)
    assert sorted(os.listdir(out)) == [*PLAIN, "tokenizer.json", "tokenizer_config.json"]


def test_nothing_is_taken_from_a_folder_that_is_gone(text, tmp_path, monkeypatch):
    """Its name could be that of somebody's repository."""
    monkeypatch.chdir(text.parent)
    model = resize(BertForMaskedLM.from_pretrained("bert"), hidden_size=16, calibration=None)
    assert origin(model) == ("bert", {})
    shutil.rmtree(text)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **named: pytest.fail("the Hub was asked"))
    assert origin(model) == (None, {})
    assert sorted(os.listdir(save_resized(model, tmp_path / "small"))) == ["README.md", *PLAIN]


def test_a_given_card_is_written_as_it_is(text, tmp_path):
    model = resize(BertForMaskedLM.from_pretrained(text), hidden_size=16, calibration=None)
    assert (save_resized(model, tmp_path / "small", card="mine") / "README.md").read_text() == "mine"


def test_a_tokenizer_or_image_processor_takes_the_sources_place(text, images, tmp_path, monkeypatch):
    model = BertForMaskedLM.from_pretrained(text)
    tokenizer, kept = trim_tokenizer(BertTokenizer.from_pretrained(text), ["a a"])
    small = resize(model, kept_tokens=kept)
    assert "tokenizer.json" not in os.listdir(save_resized(small, tmp_path / "without"))
    assert len(AutoTokenizer.from_pretrained(save_resized(small, tmp_path / "a", processing_class=tokenizer))) == len(
        kept
    )
    sent = {}
    monkeypatch.setattr(
        push, "_upload", lambda folder, *rest, **named: sent.update({f.name: f for f in folder.iterdir()})
    )
    push_resized(small, "me/small", processing_class=tokenizer)
    assert {"tokenizer.json", "README.md"} <= sent.keys()
    other = ViTImageProcessorPil(size={"height": 20, "width": 20}, do_normalize=False)
    wide = resize(ViTForImageClassification.from_pretrained(images), image_size=20)
    out = save_resized(wide, tmp_path / "wide", processing_class=other)
    assert AutoImageProcessor.from_pretrained(out, backend="pil").do_normalize is False


@pytest.mark.parametrize("given", [3, "bert", torch.nn.Identity()])
def test_a_processing_class_is_one(text, images, tmp_path, given):
    bert, vit = BertForMaskedLM.from_pretrained(text), ViTForImageClassification.from_pretrained(images)
    with pytest.raises(UnknownOptionError, match="processing_class is a tokenizer or an image processor"):
        save_resized(bert, tmp_path / "out", processing_class=given)
    with pytest.raises(UnknownOptionError, match="takes tokens, so no ViTImageProcessorPil goes with it"):
        save_resized(bert, tmp_path / "out", processing_class=ViTImageProcessorPil())
    with pytest.raises(VocabularyError, match="reads no tokens, so no tokenizer goes with it"):
        save_resized(vit, tmp_path / "out", processing_class=BertTokenizer.from_pretrained(text))
    assert not (tmp_path / "out").exists()


def test_the_keywords_of_the_hub_are_listed_once():
    from pathlib import Path

    import hf_learngene
    from hf_learngene.calibration.processing import HUB_KEYWORDS

    package = Path(hf_learngene.__file__).parent
    found = [f.name for f in package.rglob("*.py") if '"force_download"' in f.read_text()]
    assert "force_download" in HUB_KEYWORDS
    assert found == ["processing.py"]
