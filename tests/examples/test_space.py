"""What stands behind the page of `examples/space`: what a visitor may name, what is planned, made, asked and left behind."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from hf_learngene.errors import LearngeneError
from testing.families import randomise
from testing.trained_tokenizers import bert as bert_tokenizer


SPACE = Path(__file__).resolve().parents[2] / "examples" / "space"
pytestmark = pytest.mark.skipif(not SPACE.is_dir(), reason="the examples are not in a built package")


TINY = {
    "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture
def space(monkeypatch):
    monkeypatch.syspath_prepend(str(SPACE))
    for name in ("making", "answers"):
        sys.modules.pop(name, None)
    import answers
    import making

    return making, answers


@pytest.fixture
def bert(tmp_path):
    folder = tmp_path / "bert"
    tokenizer = bert_tokenizer()
    tokenizer.save_pretrained(folder)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **TINY))
    randomise(model).save_pretrained(folder)
    return folder


@pytest.fixture
def open_page(space, bert):
    making, _ = space
    page, visit = making.Page({"small BERT": bert}), making.Visit()
    yield page, visit
    visit.leave()


def test_a_visit_from_checkpoint_to_download(space, open_page):
    _, answers = space
    page, visit = open_page
    assert "BertForSequenceClassification" in page.open(visit, "small BERT")
    assert {f.name: f.value for f in visit.fields} == {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    }  # fmt: skip
    same, _, follows = page.planned(visit, {f.name: f.value for f in visit.fields})
    assert set(follows.values()) == {""}
    assert "100%" in same
    assert "its own size" in same
    cost, table, _ = page.planned(visit, {"hidden_size": 32, "intermediate_size": 32})
    assert "`calibrated`: intermediate_size 64 → 32" in cost
    assert "encoder.layer.{0-2}" in table
    assert "held-back made-up examples" in page.make(visit, {"intermediate_size": 32})
    with zipfile.ZipFile(page.saved(visit)) as packed:
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(packed.namelist())
        packed.extractall(visit.path / "unpacked")
    again = AutoModelForSequenceClassification.from_pretrained(visit.path / "unpacked")
    assert again.config.intermediate_size == 32
    one, other = answers.answers([visit.model, visit.made], visit.processor, ["a film", ""])
    assert set(one) == set(other) == {"LABEL_0", "LABEL_1"}
    assert sum(one.values()) == pytest.approx(1)


def test_a_learngene_and_sizes_from_it(open_page):
    page, visit = open_page
    page.open(visit, "small BERT")
    assert "A learngene of" in page.condense(visit, 1 / 2)
    table = page.descend(visit, [1, 2, 3])
    assert table.count("held-back made-up examples") == 3
    assert [p.suffix for p in visit.descendants.values()] == [".zip"] * 3


def test_a_sentence_encoder_is_told_by_ranks(space, tmp_path):
    making, _ = space
    folder = tmp_path / "encoder"
    bert_tokenizer().save_pretrained(folder)
    randomise(BertModel(BertConfig(vocab_size=len(bert_tokenizer()), **TINY))).save_pretrained(folder)
    page, visit = making.Page({"encoder": folder}), making.Visit()
    page.open(visit, "encoder")
    assert "mean cosine" in page.make(visit, {"intermediate_size": 32})
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    page.open(visit, "encoder")
    assert "rank correlation" in page.make(visit, {"intermediate_size": 32})
    visit.leave()


def test_nothing_is_left_of_a_visit(open_page):
    page, visit = open_page
    page.open(visit, "small BERT")
    page.make(visit, {"num_hidden_layers": 2})
    page.saved(visit)
    visit.leave()
    assert not visit.path.exists()


@pytest.mark.parametrize("name", ["", "../bert", "/etc", "a/b/c", "small bert", "hf://x"])
def test_no_folder_of_the_machine_is_opened_by_name(open_page, tmp_path, monkeypatch, name):
    page, visit = open_page
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LearngeneError, match="is no model of the Hub"):
        page.open(visit, name)
    with pytest.raises(LearngeneError, match="is no model of the Hub"):
        page.open(visit, "bert")  # a folder here, which transformers would read


def test_an_upload(space, open_page, bert, tmp_path):
    page, visit = open_page
    files = [str(bert / n) for n in ("config.json", "model.safetensors", "tokenizer.json")]
    assert "your upload" in page.open(visit, "", files)
    assert page.load(visit).config.hidden_size == 32
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(LearngeneError, match=r"pytorch_model\.bin is not taken"):
        page.open(visit, "", [*files, str(tmp_path / "pytorch_model.bin")])
    with pytest.raises(LearngeneError, match=r"has a config\.json"):
        page.open(visit, "", files[1:])


def test_too_large_is_said_before_weights_are_read(space, bert):
    making, _ = space
    (bert / "model.safetensors").unlink()
    page, visit = making.Page({"bert": bert}, most=1000), making.Visit()
    with pytest.raises(LearngeneError, match="this page stops at 1.0 k"):
        page.open(visit, "bert")
    page.most = 40_000
    page.open(visit, "bert")
    with pytest.raises(LearngeneError, match="The result has"):
        page.planned(visit, {"num_hidden_layers": 6})
    visit.leave()


def test_what_comes_too_early_is_said(open_page):
    page, visit = open_page
    for early, said in (
        (lambda: page.planned(visit, {}), "No checkpoint is open"),
        (lambda: page.make(visit, {}), "No checkpoint is open"),
        (lambda: page.saved(visit), "no model yet"),
        (lambda: page.descend(visit, [2]), "no learngene yet"),
    ):
        with pytest.raises(LearngeneError, match=said):
            early()


def test_models_without_a_head_tell_how_similar_two_inputs_are(space):
    _, answers = space
    from PIL import Image
    from transformers import ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, image_size=16, patch_size=8
    )
    model = randomise(ViTModel(config)).eval()
    image = Image.new("RGB", (40, 30), "red")
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    (said,) = answers.answers([model], processor, [image, image])
    assert said["similarity of the two"] == pytest.approx(1, abs=1e-5)
    with pytest.raises(LearngeneError, match="give two"):
        answers.answers([model], processor, [image, None])
    assert torch.is_grad_enabled()


def test_padding_is_no_part_of_a_sentence(space):
    _, answers = space
    tokenizer = bert_tokenizer()
    model = randomise(BertModel(BertConfig(vocab_size=len(tokenizer), **TINY))).eval()
    short, long = "a film", "a film that is longer than the other by some words"
    (said,) = answers.answers([model], tokenizer, [short, long])
    with torch.no_grad():
        alone = [model(**tokenizer(s, return_tensors="pt")).last_hidden_state[0].mean(0) for s in (short, long)]
    assert said["similarity of the two"] == pytest.approx(float(torch.cosine_similarity(*alone, dim=0)), abs=1e-5)


def test_a_size_that_was_left_alone_says_what_it_becomes(open_page):
    page, visit = open_page
    page.open(visit, "small BERT")
    sizes = {f.name: f.value for f in visit.fields} | {"hidden_size": 16}
    _, _, follows = page.planned(visit, sizes)
    assert follows == {
        "hidden_size": "", "num_hidden_layers": "",
        "num_attention_heads": "becomes 2, with the others", "intermediate_size": "becomes 32, with the others",
    }  # fmt: skip


def test_sizes_that_are_left_alone_can_be_kept(open_page):
    page, visit = open_page
    page.open(visit, "small BERT")
    sizes = {f.name: f.value for f in visit.fields} | {"hidden_size": 16}
    cost, _, follows = page.planned(visit, sizes, keep=True)
    assert set(follows.values()) == {""}
    assert "hidden_size 32 → 16" in cost
    assert "intermediate_size" not in cost
    page.make(visit, sizes, keep=True)
    assert (visit.made.config.num_attention_heads, visit.made.config.intermediate_size) == (4, 64)
    same, _, _ = page.planned(visit, {f.name: f.value for f in visit.fields}, keep=True)
    assert "its own size" in same


def test_a_hierarchy_has_a_slider_for_each_size_of_a_stage(space, tmp_path):
    making, _ = space
    config = SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4)
    randomise(SwinModel(config)).save_pretrained(tmp_path / "swin")
    page, visit = making.Page({"Swin": tmp_path / "swin"}), making.Visit()
    page.open(visit, "Swin")
    assert len(visit.sliders) == len(making.SLIDERS)
    set_by = {f.name: name for name, f in zip(making.SLIDERS, visit.sliders, strict=True) if f is not None}
    assert list(set_by) == [f.name for f in visit.fields if f.name in making.SLIDERS] + [
        f.name for f in visit.fields if f.name not in making.SLIDERS
    ]
    assert set_by["num_hidden_layers.1"].startswith("stage-")
    cost, _, _ = page.planned(visit, {f.name: f.value for f in visit.fields} | {"num_hidden_layers.1": 1})
    visit.leave()
    assert "num_hidden_layers [2, 2] → [2, 1]" in cost


def test_where_the_hosts_folders_lie_is_not_told(space, bert):
    making, _ = space
    (bert / "tokenizer.json").write_text("{")
    page, visit = making.Page({"small BERT": bert}), making.Visit()
    page.open(visit, "small BERT")
    assert visit.processor is None
    assert "has no tokenizer" in visit.unread
    assert str(bert.parent) not in visit.unread
    link = "See https://huggingface.co/a/b of `model.safetensors`."
    assert making.without_folders(link) == link
    visit.leave()


@pytest.mark.parametrize("what", ["model", "learngene"])
def test_what_was_made_of_the_checkpoint_before_is_dropped(open_page, space, monkeypatch, what):
    """Else the one that is open now would be shown, saved and pushed with the weights of another."""
    making, _ = space
    page, visit = open_page
    page.open(visit, "small BERT")

    def meanwhile(function):
        def called(*args, **kwargs):
            page.open(visit, "small BERT")
            return function(*args, **kwargs)

        return called

    if what == "model":
        monkeypatch.setattr(making, "resize", meanwhile(making.resize))
    else:
        from_ancestry = meanwhile(making.AutoLearngene.from_ancestry)
        monkeypatch.setattr(making.AutoLearngene, "from_ancestry", from_ancestry)
    with pytest.raises(making.PageError, match="opened meanwhile"):
        page.make(visit, {"num_hidden_layers": 2}) if what == "model" else page.condense(visit, 1 / 2)
    assert visit.made is None
    assert visit.learngene is None
