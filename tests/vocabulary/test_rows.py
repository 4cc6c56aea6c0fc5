"""A smaller vocabulary: the model gives the same for the texts of the corpus that its tokenizer was trimmed to."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_learngene import plan, resize, save_resized, trim_tokenizer, verify
from hf_learngene.errors import InvalidSizeError, VocabularyError
from hf_learngene.hub.inputs import usable_positions
from testing import ROOT
from testing.families import exact_deberta, tiny_model
from testing.method_tester import MethodTester, methods_that
from testing.numerics import assert_close_for
from testing.trained_tokenizers import FAMILIES, PROSE, bert, logits, model_for


exact_deberta()
SST2 = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_lm_gives_the_same_for_the_tokens_that_stay(family, tmp_path):
    tokenizer = FAMILIES[family][1]()
    model = model_for(family, tokenizer, rows=7)
    corpus = PROSE[:5]
    small_tokenizer, kept = trim_tokenizer(tokenizer, corpus)
    small = resize(model, kept_tokens=kept)
    expected = logits(model, tokenizer, corpus)[..., kept]
    assert_close_for(logits(small, small_tokenizer, corpus), expected)
    for name in [f"{n}_token_id" for n in ("pad", "cls", "sep", "mask", "bos", "eos")]:
        if getattr(tokenizer, name) is not None:
            assert getattr(small.config, name) == getattr(small_tokenizer, name), name
    assert small.get_input_embeddings().padding_idx == small_tokenizer.pad_token_id
    assert small.get_input_embeddings().weight.shape[0] == small.config.vocab_size == len(kept)

    out = save_resized(small, tmp_path / "small", processing_class=small_tokenizer)
    assert sorted(os.listdir(out)) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    loaded = AutoModelForMaskedLM.from_pretrained(out, dtype=torch.float64).eval()
    again = AutoTokenizer.from_pretrained(out)
    assert again.get_vocab() == small_tokenizer.get_vocab()
    # DeBERTa's own loading leaves two biases in float32
    torch.testing.assert_close(logits(loaded, again, corpus), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_classification_gives_the_same(family):
    tokenizer = FAMILIES[family][1]()
    model = model_for(family, tokenizer, "ForSequenceClassification")
    small_tokenizer, kept = trim_tokenizer(tokenizer, PROSE[2:])
    small = resize(model, kept_tokens=torch.tensor(kept))
    assert_close_for(logits(small, small_tokenizer, PROSE[2:]), logits(model, tokenizer, PROSE[2:]))


def test_an_untied_decoder_follows():
    tokenizer = bert()
    model = model_for("bert", tokenizer, tie_word_embeddings=False)
    small_tokenizer, kept = trim_tokenizer(tokenizer, PROSE[:3])
    small = resize(model, kept_tokens=kept)
    assert_close_for(logits(small, small_tokenizer, PROSE[:3]), logits(model, tokenizer, PROSE[:3])[..., kept])
    assert not torch.equal(small.get_output_embeddings().weight, small.get_input_embeddings().weight)


def test_positions_are_counted_from_the_new_padding_token():
    """RoBERTa's first position is the padding token's id plus one."""
    model = tiny_model("roberta", "RobertaForMaskedLM", {"pad_token_id": 7, "bos_token_id": 0, "eos_token_id": 2})
    kept = [0, 2, 4, 7, *range(9, 60)]
    small = resize(model, kept_tokens=kept)
    assert small.config.pad_token_id == small.get_input_embeddings().padding_idx == 3
    assert (small.config.bos_token_id, small.config.eos_token_id) == (0, 1)
    usable = usable_positions(model.config, type(model))
    assert usable_positions(small.config, type(small)) == usable == 32
    old = torch.randint(9, 60, (2, usable))
    old[1, -5:] = 7
    new = old.clone().apply_(kept.index)
    with torch.no_grad():
        expected = model(old, attention_mask=old != 7).logits[..., kept]
        assert_close_for(small(new, attention_mask=new != 3).logits, expected)
        grown = resize(model, kept_tokens=kept, hidden_size=48)
        torch.testing.assert_close(grown(new, attention_mask=new != 3).logits, expected)
    shorter = resize(model, kept_tokens=kept, max_position_embeddings=20)
    longer = resize(model, max_position_embeddings=24)
    tables = [m.roberta.embeddings.position_embeddings.weight for m in (shorter, longer)]
    assert torch.equal(tables[0][4:], tables[1][8:])  # 16 positions each


def test_a_padding_token_written_into_the_code_has_to_stay_where_it_is():
    model = tiny_model("mpnet", "MPNetForMaskedLM")
    model.config.bos_token_id = None
    with pytest.raises(VocabularyError, match="padding token at 1 whatever its config says.* Add 0 to"):
        resize(model, kept_tokens=range(1, 61))
    assert resize(model, kept_tokens=[0, 1, 2, *range(9, 30)]).config.pad_token_id == 1


def test_nested_configs_follow():
    model = tiny_model("modernvbert", "ModernVBertForMaskedLM", {"pad_token_id": 3})
    model.config.image_token_id = 9
    model.config.text_config.mask_token_id = 8
    kept = [3, 5, 8, 9, *range(20, 50)]
    config = resize(model, kept_tokens=kept).config
    assert (config.image_token_id, config.text_config.mask_token_id) == (3, 2)
    assert config.text_config.vocab_size == len(kept)
    assert model.config.image_token_id == 9


def test_lists_of_ids_follow_and_minus_one_is_none():
    model = tiny_model("bert", "BertModel")
    model.config.eos_token_id, model.config.bos_token_id = [7, 9], -1
    config = resize(model, kept_tokens=[0, 7, 9]).config
    assert (config.eos_token_id, config.bos_token_id, config.pad_token_id) == ([1, 2], -1, 0)


def test_what_the_config_names_stays():
    """ConvBERT's config has ids for the beginning and the end that are plain words of its tokenizer."""
    tokenizer = bert()
    model = model_for("bert", tokenizer, "Model")
    model.config.eos_token_id = tokenizer.convert_tokens_to_ids("gardening")
    kept = trim_tokenizer(tokenizer, PROSE[:2])[1]
    with pytest.raises(VocabularyError, match="config's eos_token_id. Give trim_tokenizer the config"):
        resize(model, kept_tokens=kept)
    small_tokenizer, more = trim_tokenizer(tokenizer, PROSE[:2], config=model.config)
    assert set(more) - set(kept) == {model.config.eos_token_id}
    config = resize(model, kept_tokens=more).config
    assert small_tokenizer.convert_ids_to_tokens(config.eos_token_id) == "gardening"


def test_padding_to_a_multiple():
    model = tiny_model("bert", "BertForMaskedLM")
    kept = [0, *range(20, 50)]
    padded = resize(model, kept_tokens=kept, pad_to_multiple_of=8)
    exact = resize(model, kept_tokens=kept)
    assert padded.config.vocab_size == 32
    ids = torch.randint(1, 30, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(padded(ids).logits[..., :31], exact(ids).logits)
    rows = padded.get_input_embeddings().weight.detach()
    assert 0 < float(rows[31:].abs().max()) < 0.2
    assert float(padded.cls.predictions.bias.detach()[31:].abs().max()) == 0
    assert "31 of 61 tokens and 1 new" in str(plan(model, kept_tokens=kept, pad_to_multiple_of=8))
    # as many rows as before, and yet others
    same = resize(model, kept_tokens=range(0, 61, 2), pad_to_multiple_of=61)
    assert torch.equal(same.get_input_embeddings().weight[:31], model.get_input_embeddings().weight[::2])


# ---- with other sizes and every method


def examples():
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(5, 61, (8,), generator=generator).tolist()} for _ in range(64)]


# a random start has no rows of the source's
@pytest.mark.parametrize("method", ["auto", *(m for m in methods_that(shrinks=True) if m != "random")])
def test_rows_are_picked_whatever_the_method(method):
    """The same as without, and then the rows: examples are in the source's ids, whatever becomes of these."""
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    kept = [0, 4, *range(9, 30)]
    if method == "auto":
        request = {"hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 20}
    else:
        tester = MethodTester(method, model)
        request = {**tester.request("shrinks"), **tester.given()}
    small = resize(model, kept_tokens=kept, **request)
    whole = dict(resize(model, **request).named_parameters())
    for name, parameter in small.named_parameters():
        rows = whole[name][kept] if whole[name].shape[0] == 61 else whole[name]
        assert torch.equal(parameter, rows), name


def test_a_budget_counts_the_tokens_that_stay():
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    kept = [0, *range(9, 20)]
    small, whole = resize(model, kept_tokens=kept, params=0.45), resize(model, params=0.45)
    assert small.config.vocab_size == len(kept)
    assert 0.4 < small.num_parameters() / model.num_parameters() <= 0.45
    assert sum(p.numel() for p in small.bert.encoder.parameters()) > sum(
        p.numel() for p in whole.bert.encoder.parameters()
    )
    # by measured error: no depth is that small with all tokens
    fixed = {"hidden_size": 24, "intermediate_size": 40, "calibration": examples()}
    with pytest.raises(InvalidSizeError):
        resize(model, params=7000, **fixed)
    small = resize(model, kept_tokens=kept, params=7000, **fixed)
    assert small.config.vocab_size == small.config.learngene["kept_tokens"]["count"] == len(kept)
    assert small.num_parameters() <= 7000


@pytest.mark.parametrize(
    "asked", [{"num_hidden_layers": 5}, {"hidden_size": 48}, {"num_hidden_layers": 2, "intermediate_size": 80}]
)
def test_growing_is_exact_on_the_tokens_that_stay(asked):
    model = tiny_model("bert", "BertForMaskedLM")
    kept = [0, *range(5, 40)]
    grown = resize(model, kept_tokens=kept, **asked)
    ids = torch.randint(1, 36, (2, 9))
    if "intermediate_size" in asked:  # mixed: what shrank first is the reference
        model = resize(model, num_hidden_layers=2)
        assert [s["method"] for s in grown.config.learngene["passes"]] == [
            "calibrated", "lemon", "kept_tokens",
        ]  # fmt: skip
    with torch.no_grad():
        expected = model(ids.clone().apply_(lambda i: kept[i])).logits[..., kept]
        torch.testing.assert_close(grown(ids).logits, expected, rtol=0, atol=1e-10)


def test_random_init_of_a_smaller_vocabulary():
    model = tiny_model("bert", "BertForMaskedLM")
    drawn = resize(model, kept_tokens=range(20), method="random")
    assert drawn.get_input_embeddings().weight.shape == (20, 24)
    assert not torch.equal(drawn.get_input_embeddings().weight, model.get_input_embeddings().weight[:20])


def test_half_precision_is_picked_exactly():
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.bfloat16)
    small = resize(model, kept_tokens=range(0, 60, 2))
    assert small.dtype == torch.bfloat16
    assert torch.equal(small.get_input_embeddings().weight, model.get_input_embeddings().weight[0:60:2])


def test_the_record_says_which_tokens_but_not_by_name():
    model = tiny_model("bert", "BertModel")
    small = resize(model, kept_tokens=range(0, 60, 2))
    kept = small.config.learngene["kept_tokens"]
    assert kept["count"] == 30
    assert re.fullmatch("[0-9a-f]{16}", kept["sha256"])
    assert kept == resize(model, kept_tokens=torch.arange(0, 60, 2, dtype=torch.int32)).config.learngene["kept_tokens"]
    assert kept != resize(model, kept_tokens=[0, *range(3, 61, 2)]).config.learngene["kept_tokens"]
    assert len(json.dumps(small.config.learngene)) < 600
    smaller = resize(small, hidden_size=16)
    assert "kept_tokens" not in smaller.config.learngene
    assert smaller.config.learngene["history"][0]["kept_tokens"] == kept
    assert "kept_tokens" not in resize(model, vocab_size=30).config.learngene


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([0, 2, 1], "1 follows 2"), ([0, 1, 1], "1 follows 1"), ([0, 61], "between 0 and 60.* 61"), ([-1, 0], "-1 does not"),
        ([], "at least one"), (torch.tensor([0.0, 1.0]), "float32"), ([0, 1.5], "float"), ([[0, 1]], "shape"),
        (torch.ones(61, dtype=torch.bool), "bool"), (7, "shape"), ("0,1", "str"), ({0, 1}, "set"),
        ([10**30], "list of token ids"),
        ([None], "list of token ids"), ([5, 6], "leaves out 0, which is the config's pad_token_id"),
    ],
)  # fmt: skip
def test_wrong_tokens_are_refused(kept, message):
    model = tiny_model("bert", "BertForMaskedLM")
    for asked in (resize, plan):
        with pytest.raises(VocabularyError, match=message):
            asked(model, kept_tokens=kept)


def test_contradictions_are_refused():
    model = tiny_model("bert", "BertForMaskedLM")
    with pytest.raises(InvalidSizeError, match="vocab_size=30 contradicts kept_tokens, which make 20 rows"):
        resize(model, kept_tokens=range(20), vocab_size=30)
    assert resize(model, kept_tokens=range(20), vocab_size=20).config.vocab_size == 20
    for multiple in (0, 1.5, True, "8"):
        with pytest.raises(VocabularyError, match="pad_to_multiple_of is a whole number"):
            resize(model, kept_tokens=range(20), pad_to_multiple_of=multiple)
    with pytest.raises(VocabularyError, match="give them, or leave it out"):
        resize(model, vocab_size=20, pad_to_multiple_of=8)
    with pytest.raises(VocabularyError, match="`vit` has no vocabulary"):
        resize(tiny_model("vit", "ViTModel"), kept_tokens=range(20))
    model.config.pad_token_id = None
    model.bert.embeddings.word_embeddings.padding_idx = None
    assert resize(model, kept_tokens=[5, 6]).config.vocab_size == 2


def test_verify_does_not_compare_other_texts():
    model = tiny_model("bert", "BertForMaskedLM")
    small = resize(model, kept_tokens=[0, *range(20, 50)])
    for inputs in (None, {"input_ids": torch.tensor([[1, 2]])}):
        with pytest.raises(InvalidSizeError, match="keeps 31 of 61 tokens under new ids"):
            verify(model, small, inputs)
    first = resize(model, vocab_size=30)
    with pytest.raises(InvalidSizeError, match="61 tokens, the second 30"):
        verify(model, first)
    bodies = [m.bert for m in (model, first)]
    assert verify(*bodies, {"input_ids": torch.tensor([[1, 29]])}).function_preserving
    assert verify(small, resize(small, num_hidden_layers=5)).function_preserving


@pytest.mark.skipif(not (SST2 / "minilm-l6-sst2").exists(), reason="the shared checkpoints are not here")
def test_a_real_checkpoint_classifies_as_before():
    with (SST2 / "sst2" / "validation.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["sentence"] for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(SST2 / "minilm-l6-sst2")
    model = AutoModelForSequenceClassification.from_pretrained(SST2 / "minilm-l6-sst2", dtype=torch.float32).eval()
    small_tokenizer, kept = trim_tokenizer(tokenizer, texts)
    small = resize(model, kept_tokens=kept)
    assert len(kept) < 6000
    assert small.num_parameters() < 0.6 * model.num_parameters()
    assert_close_for(logits(small, small_tokenizer, texts[:24]), logits(model, tokenizer, texts[:24]))
