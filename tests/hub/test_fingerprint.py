"""What a card claims of a resized model holds while it has the weights of the resize, and no longer."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, ViTForImageClassification

from hf_learngene import AutoLearngene, AutoModelForMaskedLM, resize, save_resized
from hf_learngene.hub import push
from hf_learngene.hub.card import model_card
from hf_learngene.hub.fingerprint import BLOCK, BLOCKS, _read, fingerprint, same_weights
from hf_learngene.hub.provenance import as_made
from hf_learngene.hub.push import push_folder


CLAIMS = ("Function-preserving", "Needs training", "Works as it is")


@pytest.fixture
def vit(vit_folder):
    return ViTForImageClassification.from_pretrained(vit_folder)


@pytest.fixture
def bert(bert_folder):
    return BertForMaskedLM.from_pretrained(bert_folder)


def trained(model, learning_rate=1e-4):
    """After one step of an optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    model.train()
    pixels = model.main_input_name == "pixel_values"
    inputs = (
        {"pixel_values": torch.randn(2, 3, 12, 12)} if pixels else {"input_ids": torch.arange(5, 15).reshape(2, 5)}
    )
    model(**inputs).logits.square().mean().backward()
    optimizer.step()
    return model.eval()


def claims(model, **given):
    card = model_card(model, **given)
    return [claim for claim in CLAIMS if f"**{claim}" in card]


@pytest.mark.parametrize(("sizes", "claim"), [({"num_hidden_layers": 5}, CLAIMS[0]), ({"hidden_size": 16}, CLAIMS[1])])
def test_a_trained_model_claims_nothing_of_its_resize(vit, bert, sizes, claim):
    for source in (vit, bert):
        model = resize(source, calibration=None, **sizes)
        assert claims(model) == [claim]
        assert claims(trained(model)) == []
        assert "fine-tuned from a resized" in model_card(model)


def test_a_trained_model_may_be_a_source_again(bert):
    grown = resize(trained(resize(bert, hidden_size=16, calibration=None)), num_hidden_layers=5)
    assert claims(grown) == [CLAIMS[0]]  # of what it was made from


def test_a_descendant_claims_nothing_once_it_is_trained(bert):
    model = AutoLearngene.from_ancestry(bert, "sws", num_stages=3).initialize(num_hidden_layers=2)
    assert as_made(model)
    assert not as_made(trained(model))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 5}, {"hidden_size": 16}])
def test_saved_cast_sharded_and_loaded_it_is_the_same(vit, bert, sizes, dtype, tmp_path):
    for source, folder in ((vit, tmp_path / "saved_vit"), (bert, tmp_path / "saved_bert")):
        model = resize(source, calibration=None, **sizes)
        saved = model if dtype is None else copy.deepcopy(model).to(dtype)
        saved.save_pretrained(folder, max_shard_size="5KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
        for as_dtype in ("auto", torch.float32, torch.float64):
            again = type(source).from_pretrained(folder, dtype=as_dtype)
            assert as_made(again)
            assert not as_made(trained(again.float()))


def test_a_model_made_in_half_precision_is_the_same_in_full(bert, tmp_path):
    for dtype in (torch.bfloat16, torch.float16):
        model = resize(copy.deepcopy(bert).to(dtype), hidden_size=16)
        model.save_pretrained(tmp_path / str(dtype))
        for other in (torch.float32, dtype):
            assert as_made(BertForMaskedLM.from_pretrained(tmp_path / str(dtype), dtype=other))


def test_every_parameter_counts(vit):
    before = fingerprint(vit)
    for parameter in vit.parameters():
        entry = parameter.data.view(-1)[-1:]
        old = entry.clone()
        entry.add_(0.25 * (1 + old.abs()))
        assert not same_weights(before, fingerprint(vit))
        entry.copy_(old)
    assert fingerprint(vit) == before


@pytest.mark.parametrize("size", [BLOCKS * BLOCK - 1, BLOCKS * BLOCK + 1, 3 * BLOCKS * BLOCK + 7, 1_000_003])
def test_no_long_stretch_of_a_large_parameter_goes_unread(size):
    read = _read(torch.arange(size), table=False).flatten()
    ends = torch.cat([torch.tensor([-1]), read, torch.tensor([size])])
    assert len(read) <= BLOCKS * BLOCK
    assert int(ends.diff().max()) <= max(1, size // (BLOCKS - 1))


def test_every_row_of_an_embedding_table_counts():
    config = BertConfig(
        hidden_size=32, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, vocab_size=2000
    )
    model = BertForMaskedLM(config)
    before = fingerprint(model)
    for row in range(0, 2000, 97):
        with torch.no_grad():
            model.get_input_embeddings().weight[row] += 0.1
        assert not same_weights(before, fingerprint(model))
        before = fingerprint(model)


def test_tied_or_stored_twice_it_is_the_same(bert):
    before = fingerprint(bert)
    decoder = bert.cls.predictions.decoder
    decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone())
    assert fingerprint(bert) == before


def test_a_model_on_meta_has_no_weights_that_could_be_others(bert):
    model = resize(bert, num_hidden_layers=5)
    assert fingerprint(model.to("meta")) == {}
    assert as_made(model)


def test_a_record_without_a_fingerprint_claims_nothing(bert):
    model = resize(bert, num_hidden_layers=5)
    del model.config.learngene["weights"]
    assert claims(model) == []


def test_a_card_made_before_the_training_is_told_anew_when_it_is_pushed(bert, bert_folder, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(push, "_upload", lambda *given, **named: sent.append(named["card"]))
    model = AutoModelForMaskedLM.from_pretrained_resized(bert_folder, num_hidden_layers=5)
    folder = save_resized(model, tmp_path / "grown")
    written = (folder / "README.md").read_text()
    push_folder(folder, "me/grown")
    trained(model).save_pretrained(folder)
    push_folder(folder, "me/grown")
    first, second = sent
    assert first == written
    assert "**Function-preserving" in first
    assert "**Function-preserving" not in second
    assert "fine-tuned from a resized" in second
    assert second[second.index("## ") :] == first[first.index("## ") :]
    assert second[: second.index("# ")] == first[: first.index("# ")]
    assert (
        json.loads((folder / "config.json").read_text())["learngene"]["weights"] == model.config.learngene["weights"]
    )
