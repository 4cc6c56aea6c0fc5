"""A sentence encoder stays one: what pools and normalises goes along, in the new sizes, or is refused before any work."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForSequenceClassification, BertModel
from typer.testing import CliRunner

from hf_learngene import AutoModel, plan, push_resized, resize
from hf_learngene.cli import app
from hf_learngene.errors import CheckpointError, InvalidSizeError, OutputError
from hf_learngene.hub.card import model_card
from hf_learngene.hub.card_parts import renamed
from hf_learngene.hub.push import push_folder
from hf_learngene.hub.save import save_resized
from hf_learngene.hub.sentence import read_modules
from testing.families import tiny_model
from testing.saving import cached, tokenizer


POOLING = {"word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
FILES = {
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json",
}  # fmt: skip


def put(path, content) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def get(path):
    return json.loads(path.read_text())


def modules(*kinds):
    listed = [("", "Transformer"), *((f"{n}_{kind}", kind) for n, kind in enumerate(kinds, 1))]
    return [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(listed)
    ]


@pytest.fixture
def encoder(tmp_path):
    """A tiny sentence encoder: mean pooling, length 1."""
    folder = tmp_path / "encoder"
    tiny_model("bert", "BertModel", dtype=torch.float32).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    put(folder / "modules.json", modules("Pooling", "Normalize"))
    put(folder / "1_Pooling" / "config.json", POOLING)
    put(folder / "config_sentence_transformers.json", {"prompts": {"query": "find: "}})
    put(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    return folder


def with_dense(folder, pickled=False):
    weights = {"linear.weight": torch.arange(48.0).reshape(2, 24), "linear.bias": torch.ones(2)}
    put(folder / "modules.json", modules("Pooling", "Dense", "Normalize"))
    put(folder / "2_Dense" / "config.json", {"in_features": 24, "out_features": 2, "bias": True})
    if pickled:
        torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    else:
        from safetensors.torch import save_file

        save_file(weights, folder / "2_Dense" / "model.safetensors")
    return weights


def smaller(folder, **sizes):
    return resize(BertModel.from_pretrained(folder), method="weight_selection", **sizes)


def names(folder):
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


def test_all_of_a_sentence_encoder_is_saved(encoder, tmp_path):
    out = save_resized(smaller(encoder, intermediate_size=20), tmp_path / "small", source=encoder)
    assert names(out) == names(encoder) | {"README.md"}
    for name in FILES:
        assert (out / name).read_bytes() == (encoder / name).read_bytes()
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(encoder).get_vocab()


def test_it_is_found_where_the_model_came_from(encoder, tmp_path):
    out = save_resized(smaller(encoder, intermediate_size=20), tmp_path / "small")
    assert names(out) >= FILES


def test_pooling_and_the_longest_text_follow_the_model(encoder, tmp_path):
    model = smaller(encoder, hidden_size=16, num_attention_heads=2, max_position_embeddings=20)
    out = save_resized(model, tmp_path / "small", source=encoder)
    assert get(out / "1_Pooling" / "config.json") == {**POOLING, "word_embedding_dimension": 16}
    assert get(out / "sentence_bert_config.json") == {"max_seq_length": 20, "do_lower_case": False}
    put(encoder / "1_Pooling" / "config.json", {"embedding_dimension": 24, "pooling_mode": "cls"})
    again = save_resized(model, tmp_path / "again", source=encoder)
    assert get(again / "1_Pooling" / "config.json") == {"embedding_dimension": 16, "pooling_mode": "cls"}


@pytest.mark.parametrize("options", [{}, {"calibration": "synthetic"}])
def test_a_budget_leaves_a_sentence_encoder_its_width(encoder, options):
    whole = BertModel.from_pretrained(encoder).num_parameters()
    small = AutoModel.from_pretrained_resized(encoder, params=0.8, **options)
    assert small.config.hidden_size == BertModel.from_pretrained(encoder).config.hidden_size
    assert 0.6 * whole < small.num_parameters() <= 0.8 * whole
    narrow = plan(encoder, params=0.8, hidden_size=16, num_attention_heads=2)
    assert narrow.target_config.hidden_size == 16
    (encoder / "modules.json").unlink()
    assert plan(encoder, params=0.5).target_config.hidden_size < 24


def test_it_comes_from_the_hub_too(encoder, tmp_path):
    name = cached(encoder, tmp_path / "cache")
    loading = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    out = save_resized(smaller(encoder, intermediate_size=20), tmp_path / "small", source=name, loading=loading)
    assert names(out) >= FILES


@pytest.mark.parametrize("pickled", [False, True])
def test_a_matrix_after_pooling_is_carried_while_the_width_stays(encoder, tmp_path, pickled):
    weights = with_dense(encoder, pickled)
    out = save_resized(smaller(encoder, num_hidden_layers=1), tmp_path / "small", source=encoder)
    assert not list(out.rglob("*.bin"))
    torch.testing.assert_close(load_file(out / "2_Dense" / "model.safetensors"), weights)


def test_a_matrix_after_pooling_refuses_another_width_and_leaves_nothing(encoder, tmp_path):
    with_dense(encoder)
    with pytest.raises(
        InvalidSizeError, match=r"`encoder` goes on with a Dense module \(2_Dense\).*Keep hidden_size=24"
    ):
        save_resized(smaller(encoder, hidden_size=16, num_attention_heads=2), tmp_path / "small", source=encoder)
    assert not (tmp_path / "small").exists()


def test_the_command_line_refuses_it_before_any_weight_is_read(encoder, tmp_path):
    with_dense(encoder)
    (encoder / "model.safetensors").write_bytes(b"")
    ran = CliRunner().invoke(app, ["resize", str(encoder), str(tmp_path / "small"), "--hidden-size", "16"])
    assert ran.exit_code == 2
    assert "goes on with a Dense module" in ran.output


def test_the_command_line_makes_a_whole_sentence_encoder_and_replaces_it(encoder, tmp_path):
    given = ["resize", str(encoder), str(tmp_path / "small"), "--size", "intermediate_size=20"]
    given += ["--method", "weight_selection"]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert names(tmp_path / "small") >= FILES
    assert CliRunner().invoke(app, given).exit_code == 2
    ran = CliRunner().invoke(app, [*given, "--overwrite"])
    assert ran.exit_code == 0, ran.output
    assert names(tmp_path / "small") >= FILES


def test_a_folder_with_more_than_modules_is_not_replaced(encoder, tmp_path):
    model = smaller(encoder, intermediate_size=20)
    out = save_resized(model, tmp_path / "small", source=encoder)
    (out / "1_Pooling" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds more than a saved model"):
        save_resized(model, out, source=encoder, overwrite=True)
    assert (out / "1_Pooling" / "notes.txt").exists()


def test_a_list_of_modules_that_changes_with_the_depth_is_refused(encoder, tmp_path):
    put(encoder / "modules.json", modules("WeightedLayerPooling"))
    with pytest.raises(InvalidSizeError, match="Keep num_hidden_layers=3"):
        save_resized(smaller(encoder, num_hidden_layers=1), tmp_path / "small", source=encoder)
    assert names(save_resized(smaller(encoder, intermediate_size=20), tmp_path / "small")) >= {"modules.json"}


def test_a_head_makes_it_no_sentence_encoder(encoder, tmp_path):
    model = resize(
        BertForSequenceClassification.from_pretrained(encoder), intermediate_size=20, method="weight_selection"
    )
    out = save_resized(model, tmp_path / "small", source=encoder)
    assert "modules.json" not in names(out)
    assert "sentence_transformers" not in (out / "README.md").read_text()


@pytest.mark.parametrize(
    "listed",
    [
        "no json",
        {"0": "Transformer"},
        [{"path": "", "type": "somebody.Model"}],
        [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}],
        [*modules("Pooling"), {"path": "../other", "type": "sentence_transformers.models.Dense"}],
        [*modules("Pooling"), {"path": "..", "type": "sentence_transformers.models.Dense"}],
        [*modules("Pooling"), {"path": "2_Own", "type": "custom.Own"}],
        [*modules("Pooling"), {"path": "2_Asym", "type": "sentence_transformers.models.Asym"}],
    ],
    ids=repr,
)
def test_what_cannot_be_carried_is_left_out_and_said(encoder, tmp_path, listed, caplog):
    put(encoder / "modules.json", listed)
    if listed == "no json":
        (encoder / "modules.json").write_text("{")
    out = save_resized(smaller(encoder, intermediate_size=20), tmp_path / "small", source=encoder)
    assert "modules.json" not in names(out)
    assert "tokenizer.json" in names(out)
    assert "sentence_transformers" not in (out / "README.md").read_text()
    assert "are left out" in caplog.text


def test_a_link_out_of_the_folder_is_no_module(encoder, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (encoder / "1_Pooling" / "config.json").unlink()
    (encoder / "1_Pooling" / "config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        save_resized(smaller(encoder, intermediate_size=20), tmp_path / "small", source=encoder)


def test_the_card_loads_it_with_sentence_transformers(encoder, tmp_path):
    model = smaller(encoder, intermediate_size=20)
    text = (save_resized(model, tmp_path / "small", source=encoder) / "README.md").read_text()
    card = ModelCard(text)
    assert 'SentenceTransformer("small")' in text
    assert 'SentenceTransformer("me/tiny")' in renamed(text, "me/tiny")
    assert card.data.library_name == "sentence-transformers"
    assert card.data.pipeline_tag == "sentence-similarity"
    assert "SentenceTransformer" in model_card(model, source=encoder)
    shutil.rmtree(encoder / "1_Pooling")
    (encoder / "modules.json").unlink()
    assert "SentenceTransformer" not in model_card(model, source=encoder)


@pytest.mark.parametrize("from_folder", [False, True])
def test_it_is_pushed_whole(encoder, tmp_path, uploads, from_folder):
    with_dense(encoder, pickled=True)
    model = smaller(encoder, intermediate_size=20)
    if from_folder:
        push_folder(save_resized(model, tmp_path / "small", source=encoder), "me/tiny")
    else:
        push_resized(model, "me/tiny", source=encoder)
    ((_, sent),) = uploads
    assert sent.keys() >= {*FILES, "2_Dense/config.json", "2_Dense/model.safetensors"}
    assert b'SentenceTransformer("me/tiny")' in sent["README.md"]


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        (POOLING, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["cls", "mean"]}, "mean"),
        ({"pooling_mode": "lasttoken"}, "mean"),
    ],
)
def test_it_says_how_its_vectors_are_made(encoder, settings, pooling):
    put(encoder / "1_Pooling" / "config.json", settings)
    assert read_modules(encoder, {}).pooling == pooling


def test_a_model_of_tokens_alone_has_no_modules(tmp_path):
    assert read_modules(tmp_path, {}) is None
