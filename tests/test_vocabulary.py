"""A smaller vocabulary: the tokenizer cuts the texts of its corpus as before, and the model gives the same for them."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path

import pytest
import torch
from families import exact_deberta, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertTokenizer,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    CanineTokenizer,
    DebertaTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
    pipeline,
)
from typer.testing import CliRunner

from hf_learngene import plan, resize, save_resized, trim_tokenizer, verify
from hf_learngene.cli import app
from hf_learngene.errors import InvalidSizeError, LearngeneError, VocabularyError
from hf_learngene.resizing.saving import usable_positions


exact_deberta()
PROSE = """the seed of a larger tree is planted in the garden behind the house
larger trees give more shade than smaller ones and the gardeners planted three
smaller seeds were planted later, and most of them gave smaller trees
shaded gardens are behind the oldest houses of the town, 12 of them
nobody planted the oldest tree; it planted itself in 1785
a house without a garden gives no shade and nobody is gardening there
the planting of seeds is the gardener's greatest pleasure, says the gardener
three houses later the town ends and the unplanted land begins""".splitlines()
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SST2 = Path(__file__).parents[2] / "shared" / "data"


# ---- tokenizers of every kind, trained here


@functools.cache
def trained(kind: str, size: int, specials: tuple[str, ...] = (), suffix: str | None = None):
    """The `model` of a tokenizer.json."""
    asked = {"vocab_size": size, "special_tokens": list(specials), "show_progress": False}
    if kind == "WordPiece":
        core, before = Tokenizer(models.WordPiece(unk_token="[UNK]")), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(**asked)
    elif kind == "WordLevel":
        core, before = Tokenizer(models.WordLevel(unk_token="[UNK]")), pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(**asked)
    elif kind == "Unigram":
        core, before = Tokenizer(models.Unigram()), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(**asked, unk_token=specials[-1])
    elif suffix:
        core, before = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix=suffix)), pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(**asked, end_of_word_suffix=suffix)
    else:
        core, before = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(**asked, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    core.pre_tokenizer = before
    core.train_from_iterator(PROSE, trainer)
    return json.loads(core.to_str())["model"]


def bert():
    return BertTokenizer(trained("WordPiece", 160, tuple(BERT))["vocab"])


def _of_bytes(cls, *specials):
    model = trained("BPE", 400, specials)
    return cls(model["vocab"], [tuple(merge) for merge in model["merges"]])


def roberta():
    return _of_bytes(RobertaTokenizer, *ROBERTA)


def deberta():
    return _of_bytes(DebertaTokenizer, "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


def _scored(*first):
    """Scored pieces, some special ones first."""
    pieces = [tuple(piece) for piece in trained("Unigram", 160, ("<unk>",))["vocab"][1:]]
    return [*((piece, 0.0) for piece in first), *pieces]


def albert():
    return AlbertTokenizer(_scored("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))


def deberta_v2():
    return DebertaV2Tokenizer(_scored("[PAD]", "[CLS]", "[SEP]", "[UNK]"))  # [MASK] comes behind the pieces


def xlm_roberta():
    return XLMRobertaTokenizer([*_scored("<s>", "<pad>", "</s>", "<unk>"), ("<mask>", 0.0)])


def _core(model):
    return Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))


def modernbert():
    """The special tokens stand behind the others, and so does the padding."""
    core = _core(trained("BPE", 400))
    core.pre_tokenizer, core.normalizer = pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()
    specials = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    core.add_special_tokens([AddedToken(token, lstrip=token == "[MASK]") for token in specials])
    ids = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ids)
    return PreTrainedTokenizerFast(tokenizer_object=core, **_named(BERT))


def words():
    core = _core(trained("WordLevel", 160, tuple(BERT)))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=core, **_named(BERT))


def letters():
    """A BPE over characters whose words end in a sign of their own."""
    core = _core(trained("BPE", 120, ("[PAD]", "[UNK]"), "</w>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]")


def _named(tokens):
    return dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), tokens, strict=True))


KINDS = {f.__name__: f for f in (bert, roberta, deberta, albert, deberta_v2, xlm_roberta, modernbert, words, letters)}
FAMILIES = {
    "bert": ("Bert", bert), "electra": ("Electra", bert), "distilbert": ("DistilBert", bert), "roberta": ("Roberta", roberta),
    "deberta": ("Deberta", deberta), "albert": ("Albert", albert), "deberta-v2": ("DebertaV2", deberta_v2),
    "xlm-roberta": ("XLMRoberta", xlm_roberta), "modernbert": ("ModernBert", modernbert),
}  # fmt: skip


def cut(tokenizer, text):
    return tokenizer.backend_tokenizer.encode(text)


def model_for(family: str, tokenizer, head: str = "ForMaskedLM", rows: int = 0, **extra):
    """A random model of the family with the tokenizer's ids in its config, and `rows` more than it has tokens."""
    names = ("pad", "bos", "eos", "cls", "sep", "mask")
    ids = {f"{n}_token_id": i for n in names if (i := getattr(tokenizer, f"{n}_token_id")) is not None}
    return tiny_model(family, FAMILIES[family][0] + head, {"vocab_size": len(tokenizer) + rows, **ids, **extra})


def logits(model, tokenizer, texts=PROSE):
    with torch.no_grad():
        return model(
            **tokenizer(list(texts), padding=True, truncation=True, max_length=36, return_tensors="pt")
        ).logits


# ---- the tokenizer


sentences = st.lists(
    st.one_of(
        st.sampled_from(sorted({w for line in PROSE for w in line.split()})),
        st.text("abdehnst 12,.';", min_size=1, max_size=8),
        st.sampled_from(
            ["[MASK]", "<mask>", "seed[SEP]tree", "日本", "naïve", "tree😀", "  ", "GARDEN", "x" * 120, "▁"]
        ),
    ),
    min_size=1,
    max_size=6,
).map(" ".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(corpus=st.lists(sentences, min_size=1, max_size=6), share=st.floats(0, 1))
def test_a_corpus_is_cut_as_before_and_can_be_cut_with_fewer_tokens(kind, corpus, share):
    tokenizer = KINDS[kind]()
    before = tokenizer.backend_tokenizer.to_str()
    corpus = [*corpus, "the seed"]
    small, kept = trim_tokenizer(tokenizer, iter(corpus))
    assert type(small) is type(tokenizer)
    assert kept == sorted(set(kept))
    assert small.get_vocab() == {tokenizer.convert_ids_to_tokens(old): new for new, old in enumerate(kept)}
    for text in corpus:
        assert cut(small, text).tokens == cut(tokenizer, text).tokens
        assert [kept[i] for i in cut(small, text).ids] == cut(tokenizer, text).ids
    assert small.special_tokens_map == tokenizer.special_tokens_map

    with pytest.raises(VocabularyError, match="too small") as refused:
        trim_tokenizer(tokenizer, corpus, 1)
    least = int(re.search(r"are (\d+),", str(refused.value))[1])
    size = least + int(share * (len(kept) - least))
    fewer, some = trim_tokenizer(tokenizer, corpus, size)
    assert set(some) <= set(kept)
    # a piece of a BPE may rest on two that do not fit any more
    assert len(fewer) == len(some) == size or (
        size - 2 * 12 <= len(some) <= size and kind in ("roberta", "deberta", "modernbert", "letters")
    )
    for text in corpus if kind != "words" else []:
        unknown = [cut(t, text).ids.count(t.unk_token_id) for t in (fewer, tokenizer)]
        assert unknown[0] <= unknown[1]
    assert tokenizer.backend_tokenizer.to_str() == before


def test_the_most_frequent_words_stay_whole():
    corpus = ["tree tree tree house house garden"] * 3
    tokenizer = words()
    kept = trim_tokenizer(tokenizer, corpus, len(BERT) + 2)[1]
    assert tokenizer.convert_ids_to_tokens(kept[len(BERT) :]) == sorted(
        ["tree", "house"], key=tokenizer.convert_tokens_to_ids
    )


def test_a_vocabulary_larger_than_what_is_used_is_no_larger():
    assert trim_tokenizer(bert(), PROSE[:2], 10_000)[1] == trim_tokenizer(bert(), PROSE[:2])[1]


def test_an_unknown_word_stays_unknown():
    """`abcd` begins with `abc` and ends there; with `ab` in its place it would go on with `##cd`."""
    vocab = [*BERT, "ab", "abc", "##cd", "x", "a", "##b", "##c"]
    tokenizer = BertTokenizer({word: i for i, word in enumerate(vocab)})
    corpus = ["abcd", "ab xcd"]
    assert [tokenizer.tokenize(text) for text in corpus] == [["[UNK]"], ["ab", "x", "##cd"]]
    small, _ = trim_tokenizer(tokenizer, corpus)
    assert [small.tokenize(text) for text in corpus] == [["[UNK]"], ["ab", "x", "##cd"]]


def test_the_penalty_of_an_unknown_character_stays():
    """It follows the lowest of all scores, which no text here uses: with a lower penalty `u` + `ab` would win."""
    scores = [
        ("<pad>", 0.0),
        ("<unk>", 0.0),
        ("a", -15.0),
        ("b", -15.0),
        ("ua", -15.0),
        ("ab", -1.0),
        ("zzz", -40.0),
        ("zz", -30.0),
    ]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram(scores, 1)), unk_token="<unk>", pad_token="<pad>"
    )
    assert tokenizer.tokenize("uab") == ["ua", "b"]
    small, kept = trim_tokenizer(tokenizer, ["uab", "ab"])
    assert small.tokenize("uab") == ["ua", "b"]
    assert kept == [0, 1, 2, 3, 4, 5, 6]


def test_what_no_single_character_spells_keeps_its_pieces():
    """There is no `##c`, so the one word with a c inside keeps the pieces it has, however small the vocabulary."""
    vocab = [*BERT, "a", "##b", "b", "##a", "##bc", "ba", "bab"]
    tokenizer = BertTokenizer({word: i for i, word in enumerate(vocab)})
    corpus = ["abc", *["bab ba"] * 9]
    with pytest.raises(VocabularyError, match="are 10,"):
        trim_tokenizer(tokenizer, corpus, 9)
    small, _ = trim_tokenizer(tokenizer, corpus, 10)
    assert small.tokenize("abc bab") == ["a", "##bc", "b", "##a", "##b"]


def test_merges_that_rest_on_a_dropped_token_go():
    tokenizer = roberta()
    model = json.loads(trim_tokenizer(tokenizer, PROSE, 290)[0].backend_tokenizer.to_str())["model"]
    whole = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    assert 0 < len(model["merges"]) < len(whole["merges"])
    assert all({a, b, a + b} <= model["vocab"].keys() for a, b in model["merges"])
    assert model["merges"] == [m for m in whole["merges"] if m in model["merges"]]


def test_every_byte_stays_so_any_text_can_be_read():
    small, _ = trim_tokenizer(roberta(), ["tree"])
    assert small.decode(small("Ünïcödé 日本 😀", add_special_tokens=False)["input_ids"]) == "Ünïcödé 日本 😀"


def test_added_tokens_stay_and_padding_follows():
    tokenizer = bert()
    tokenizer.add_tokens(["gardenhouse"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["[X1]"]})
    tokenizer(PROSE, padding=True, truncation=True, max_length=8)  # which the tokenizer keeps as its state
    small, kept = trim_tokenizer(tokenizer, ["the gardenhouse [X1]"])
    assert kept[-2:] == [len(tokenizer) - 2, len(tokenizer) - 1]
    assert small.tokenize("a gardenhouse [X1]")[-2:] == ["gardenhouse", "[X1]"]
    assert trim_tokenizer(tokenizer, PROSE)[1] == trim_tokenizer(bert(), PROSE)[1] + kept[-2:]  # nothing was cut off
    late = modernbert()
    late.backend_tokenizer.enable_padding(pad_id=late.pad_token_id, pad_token="[PAD]")
    small, _ = trim_tokenizer(late, PROSE[:1])
    assert small.backend_tokenizer.padding["pad_id"] == small.pad_token_id != late.pad_token_id
    assert small("tree [MASK]")["input_ids"][-2:] == [small.mask_token_id, small.sep_token_id]


def test_what_cannot_be_trimmed_is_refused():
    for wrong in (CanineTokenizer(), "bert-base-uncased", None):
        with pytest.raises(VocabularyError, match="fast tokenizer"):
            trim_tokenizer(wrong, PROSE)
    for corpus, message in (
        ("one text", "list of texts"), ([b"tree"], "number 0 is a bytes"), (["tree", 7], "number 1 is a int"),
        ([], "no text"), (["", " "], "no text"), (7, "list of texts"),
    ):  # fmt: skip
        with pytest.raises(VocabularyError, match=message):
            trim_tokenizer(bert(), corpus)
    for size in (0, -1, True, 8000.0, "8000"):
        with pytest.raises(VocabularyError, match="whole number"):
            trim_tokenizer(bert(), PROSE, size)


class OwnMind(BertTokenizer):
    """A class that has its own view of how texts begin."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


def test_a_class_that_sets_itself_up_otherwise_is_refused():
    tokenizer = OwnMind(trained("WordPiece", 160, tuple(BERT))["vocab"])
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with pytest.raises(VocabularyError, match="sets up its pre_tokenizer by itself"):
        trim_tokenizer(tokenizer, PROSE)


# ---- the model


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_lm_gives_the_same_for_the_tokens_that_stay(family, tmp_path):
    tokenizer = FAMILIES[family][1]()
    model = model_for(family, tokenizer, rows=7)
    corpus = PROSE[:5]
    small_tokenizer, kept = trim_tokenizer(tokenizer, corpus)
    small = resize(model, kept_tokens=kept)
    expected = logits(model, tokenizer, corpus)[..., kept]
    assert torch.equal(logits(small, small_tokenizer, corpus), expected)
    for name in [f"{n}_token_id" for n in ("pad", "cls", "sep", "mask", "bos", "eos")]:
        if getattr(tokenizer, name) is not None:
            assert getattr(small.config, name) == getattr(small_tokenizer, name), name
    assert small.get_input_embeddings().padding_idx == small_tokenizer.pad_token_id
    assert small.get_input_embeddings().weight.shape[0] == small.config.vocab_size == len(kept)

    out = save_resized(small, tmp_path / "small", tokenizer=small_tokenizer)
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
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
    assert torch.equal(logits(small, small_tokenizer, PROSE[2:]), logits(model, tokenizer, PROSE[2:]))


def test_an_untied_decoder_follows():
    tokenizer = bert()
    model = model_for("bert", tokenizer, tie_word_embeddings=False)
    small_tokenizer, kept = trim_tokenizer(tokenizer, PROSE[:3])
    small = resize(model, kept_tokens=kept)
    assert torch.equal(logits(small, small_tokenizer, PROSE[:3]), logits(model, tokenizer, PROSE[:3])[..., kept])
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
        assert torch.equal(small(new, attention_mask=new != 3).logits, expected)
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


METHODS = {
    "auto": {"hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 20},
    "front": {"hidden_size": 16},
    "l2": {"hidden_size": 16, "num_hidden_layers": 2},
    "layers": {"layer_map": [2, 0]},
    "calibrated": {"hidden_size": 16, "num_hidden_layers": 2, "calibration": examples()},
    "minitron": {"hidden_size": 16, "calibration": examples()},
}


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_picked_whatever_the_method(method):
    """The same as without, and then the rows: examples are in the source's ids, whatever becomes of these."""
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    kept = [0, 4, *range(9, 30)]
    small = resize(model, kept_tokens=kept, method=method, **METHODS[method])
    whole = dict(resize(model, method=method, **METHODS[method]).named_parameters())
    for name, parameter in small.named_parameters():
        rows = whole[name][kept] if whole[name].shape[0] == 61 else whole[name]
        assert torch.equal(parameter, rows), name


def test_a_budget_counts_the_tokens_that_stay():
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    kept = [0, *range(9, 20)]
    for more in ({}, {"calibration": examples()}):
        small = resize(model, kept_tokens=kept, params=0.6, **more)
        whole = resize(model, params=0.6, **more)
        assert small.config.vocab_size == small.config.learngene["kept_tokens"]["count"] == len(kept)
        assert 0.4 < small.num_parameters() / model.num_parameters() < 0.7
        encoders = [sum(p.numel() for p in m.bert.encoder.parameters()) for m in (small, whole)]
        assert encoders[0] >= encoders[1]


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
        assert [s["method"] for s in grown.config.learngene["stages"]] == ["weight_selection", "lemon"]
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


# ---- on disk


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
    out = save_resized(small, tmp_path / "out", tokenizer=small_tokenizer, source=source)
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert AutoTokenizer.from_pretrained(out).model_max_length == 20
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
        save_resized(small, tmp_path / "out", tokenizer=tokenizer)
    with pytest.raises(VocabularyError, match="reads no tokens"):
        save_resized(tiny_model("vit", "ViTModel"), tmp_path / "out", tokenizer=small_tokenizer)
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_of_the_source_is_left_out_even_where_the_sizes_agree(source, tmp_path, caplog):
    model = AutoModelForMaskedLM.from_pretrained(source)
    small = resize(model, kept_tokens=range(0, 80), pad_to_multiple_of=model.config.vocab_size)
    out = save_resized(small, tmp_path / "out", source=source)
    assert "tokenizer=" in caplog.text
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors"]
    # and is carried where the source was trimmed itself
    small_tokenizer, kept = trim_tokenizer(AutoTokenizer.from_pretrained(source), PROSE)
    trimmed = save_resized(resize(model, kept_tokens=kept), tmp_path / "trimmed", tokenizer=small_tokenizer)
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
        ("latin.txt", (), "no text in UTF-8"),
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
    assert torch.equal(logits(small, small_tokenizer, texts[:24]), logits(model, tokenizer, texts[:24]))


def test_every_error_is_one_of_this_package():
    assert issubclass(VocabularyError, LearngeneError)
    assert issubclass(VocabularyError, ValueError)
