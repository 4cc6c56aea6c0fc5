"""`trim_tokenizer`: the texts of a corpus are cut into the same tokens as before, and into tokens at all with fewer of them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, CanineTokenizer, PreTrainedTokenizerFast

from hf_learngene import trim_tokenizer
from hf_learngene.errors import VocabularyError
from testing.trained_tokenizers import BERT, KINDS, PROSE, bert, modernbert, roberta, trained, words


pytestmark = pytest.mark.not_numeric


def cut(tokenizer, text):
    return tokenizer.backend_tokenizer.encode(text)


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
@settings(max_examples=6)
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
