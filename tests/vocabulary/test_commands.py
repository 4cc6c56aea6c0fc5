"""A smaller vocabulary on disk and from the command line: model and tokenizer go together, or neither is written."""

from __future__ import annotations

import os

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
from typer.testing import CliRunner

from hf_learngene import resize, save_resized, trim_tokenizer
from hf_learngene.cli import app
from hf_learngene.errors import VocabularyError
from testing.families import tiny_model
from testing.trained_tokenizers import PROSE, bert, logits, model_for


pytestmark = pytest.mark.not_numeric


@pytest.fixture
def source(tmp_path):
    """A checkpoint with its tokenizer, and files of an older form beside it."""
    folder = tmp_path / "source"
    tokenizer = bert()
    model_for("bert", tokenizer, rows=3).to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokenizer.get_vocab()))
    return folder


def test_one_call_saves_both(source, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(source)
    small_tokenizer, kept = trim_tokenizer(tokenizer, PROSE)
    small = resize(AutoModelForMaskedLM.from_pretrained(source), kept_tokens=kept, max_position_embeddings=20)
    out = save_resized(small, tmp_path / "out", processing_class=small_tokenizer, source=source)
    files = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(os.listdir(out)) == files
    alone = save_resized(small, tmp_path / "alone", processing_class=small_tokenizer)
    assert [AutoTokenizer.from_pretrained(folder).model_max_length for folder in (out, alone)] == [20, 20]
    best = pipeline("fill-mask", model=str(out))("the seed of a [MASK] tree")
    assert all(0 <= found["token"] < len(kept) for found in best)
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_a_tokenizer_that_does_not_fit_is_told_before_anything_is_written(source, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    small_tokenizer, kept = trim_tokenizer(tokenizer, PROSE[:2])
    small = resize(model, kept_tokens=kept)
    with pytest.raises(VocabularyError, match=f"the model rows for {len(kept)} tokens"):
        save_resized(small, tmp_path / "out", processing_class=tokenizer)
    with pytest.raises(VocabularyError, match="reads no tokens"):
        save_resized(tiny_model("vit", "ViTModel"), tmp_path / "out", processing_class=small_tokenizer)
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_of_the_source_is_left_out_even_where_the_sizes_agree(source, tmp_path, caplog):
    model = AutoModelForMaskedLM.from_pretrained(source)
    small = resize(model, kept_tokens=range(0, 80), pad_to_multiple_of=model.config.vocab_size)
    out = save_resized(small, tmp_path / "out", source=source)
    assert "processing_class=" in caplog.text
    assert sorted(os.listdir(out)) == ["README.md", "config.json", "model.safetensors"]
    # and is carried where the source was trimmed itself
    small_tokenizer, kept = trim_tokenizer(AutoTokenizer.from_pretrained(source), PROSE)
    trimmed = save_resized(resize(model, kept_tokens=kept), tmp_path / "trimmed", processing_class=small_tokenizer)
    narrow = AutoModelForMaskedLM.from_pretrained(trimmed)
    out = save_resized(resize(narrow, hidden_size=16), tmp_path / "narrow", source=trimmed)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == small_tokenizer.get_vocab()


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_line_saves_both(source, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(PROSE[:4]) + "\n\nnaïve\n", encoding="utf-8")
    corpus = ("--corpus", tmp_path / "corpus.txt")
    done = run("resize", source, tmp_path / "small", *corpus)
    assert done.exit_code == 0, done.output
    names = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(os.listdir(tmp_path / "small")) == names
    models_ = [AutoModelForMaskedLM.from_pretrained(f).eval() for f in (source, tmp_path / "small")]
    tokenizers_ = [AutoTokenizer.from_pretrained(f) for f in (source, tmp_path / "small")]
    kept = trim_tokenizer(tokenizers_[0], [*PROSE[:4], "naïve"])[1]
    first, second = (logits(m, t, PROSE[:4]) for m, t in zip(models_, tokenizers_, strict=True))
    torch.testing.assert_close(second, first[..., kept])

    planned = run("plan", source, *corpus, "--vocab-size", 60, "--hidden-size", 16)
    assert planned.exit_code == 0, planned.output
    assert "60 of" in planned.stdout
    done = run("resize", source, tmp_path / "smaller", *corpus, "--vocab-size", 60, "--hidden-size", 16)
    assert done.exit_code == 0, done.output
    config = AutoModelForMaskedLM.from_pretrained(tmp_path / "smaller").config
    assert (config.vocab_size, config.hidden_size) == (60, 16)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "smaller")) == 60


def test_the_command_line_without_a_corpus_takes_the_first_rows(source, tmp_path):
    done = run("resize", source, tmp_path / "first", "--vocab-size", 60)
    assert done.exit_code == 0, done.output
    small, model = (AutoModelForMaskedLM.from_pretrained(f) for f in (tmp_path / "first", source))
    assert torch.equal(small.get_input_embeddings().weight, model.get_input_embeddings().weight[:60])
    assert "tokenizer.json" not in os.listdir(tmp_path / "first")


def test_wrong_corpora_are_told_in_one_line(source, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "good.txt").write_text("tree")
    tiny_model("vit", "ViTModel").save_pretrained(tmp_path / "vit")
    for name, more, message in (
        ("empty.txt", (), "holds no text"),
        ("latin.txt", (), "is not UTF-8 text"),
        ("absent.txt", (), "No such file"),
        ("good.txt", ("--vocab-size", 3), "too small"),
        ("good.txt", ("--size", "vocab_size=many"), "whole number"),
    ):
        done = run("resize", source, tmp_path / "out", "--corpus", tmp_path / name, *more)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
    done = run("plan", tmp_path / "vit", "--corpus", tmp_path / "good.txt")
    assert "has no tokenizer" in done.stderr
    assert not (tmp_path / "out").exists()
