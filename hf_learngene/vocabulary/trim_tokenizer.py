"""Trimming a tokenizer to the tokens that a corpus uses."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_learngene.disk import scratch
from hf_learngene.errors import VocabularyError
from hf_learngene.vocabulary.rows import named_tokens
from hf_learngene.vocabulary.subwords import KINDS, Pieces


_BATCH = 1024  # texts that are split at a time
_UNKNOWN = "\ufdd0"  # no character, and so no word of any text
# what a tokenizer's class sets up anew when it is loaded
_PARTS = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder")


def trim_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Iterable[str],
    vocab_size: int | None = None,
    *,
    config: PreTrainedConfig | None = None,
) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """A tokenizer with only the tokens that a corpus uses, and which of the old ones they are.

    Every text of the corpus is tokenized as before. Special and added tokens stay, and the single characters of
    the corpus (for a byte-level tokenizer every byte), so that other words of the same script can be tokenized too.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a fast tokenizer with a WordPiece, BPE, Unigram or WordLevel model. It is left as
            it is.
        corpus (`Iterable[str]`): texts of the kind that the model will read. It is read once.
        vocab_size (`int`, *optional*): at most so many tokens: the most frequent ones stay, rarer words are split into smaller
            pieces. Default: every token that is used.
        config (`PreTrainedConfig`, *optional*): the model's: tokens that it names (`eos_token_id`, ...) stay. They most often are
            special tokens anyway.

    Returns:
        `tuple`: a tokenizer of the same class, and the old ids that stay, ascending: `resize(model, kept_tokens=...)` picks their
        rows. Token number i of the new tokenizer is the one that was `kept[i]`.

    Raises:
        VocabularyError: a tokenizer that cannot be trimmed, no text, or a `vocab_size` below what every text needs.

    Example:
        >>> from transformers import BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "b", "##b", "c", "ab", "##bc", "cab"]
        >>> tokenizer = BertTokenizer({word: i for i, word in enumerate(words)})
        >>> small, kept = trim_tokenizer(tokenizer, ["ab cab", "b"])
        >>> small.tokenize("cab ab"), kept, len(small)
        (['cab', 'ab'], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12], 12)
    """
    content = _content(tokenizer)
    pieces = KINDS[content["model"]["type"]](content["model"], _alphabet(content))
    if vocab_size is not None and (isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 1):
        raise VocabularyError(f"vocab_size is a whole number of at least 1; it was {vocab_size!r}.")
    words = _words(content, corpus, tokenizer.backend_tokenizer.encode_special_tokens)
    named = _named(tokenizer, content) | (named_tokens(config).keys() if config is not None else set())
    kept = sorted(_chosen(pieces, words, named & set(tokenizer.get_vocab().values()), vocab_size))
    return _reloaded(tokenizer, _renumbered(content, pieces, {old: new for new, old in enumerate(kept)})), kept


def _content(tokenizer: Any) -> dict[str, Any]:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise VocabularyError(
            f"Only a fast tokenizer, one with a tokenizer.json, can be trimmed; this is a {type(tokenizer).__name__}. Convert it "
            "first, or keep the whole vocabulary."
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = content["model"].get("type")
    if kind not in KINDS:
        raise VocabularyError(f"The tokenizer has a {kind} model; those that can be trimmed are {', '.join(KINDS)}.")
    return content


def _alphabet(content: Mapping[str, Any]) -> list[str]:
    """The signs for the 256 bytes, where texts are spelled in bytes before they are tokenized."""
    before = json.dumps([content["normalizer"], content["pre_tokenizer"]])
    return ByteLevel.alphabet() if '"ByteLevel"' in before else []


def _words(content: Mapping[str, Any], corpus: Iterable[str], whole: bool) -> Counter[str]:
    """Counts of the words that reach the tokenizer's model, after normalisation and pre-tokenization."""
    if isinstance(corpus, (str, bytes)) or not isinstance(corpus, Iterable):
        raise VocabularyError(
            f"corpus is a list of texts or anything that gives one after the other; it was a {type(corpus).__name__}."
        )
    # A model that knows nothing hands every word back as it got it.
    blank = {"type": "Unigram", "unk_id": 0, "vocab": [[_UNKNOWN, 0.0]]}
    alone = {"model": blank, "post_processor": None, "truncation": None, "padding": None}
    splitter = Tokenizer.from_str(json.dumps({**content, **alone}))
    splitter.encode_special_tokens = whole
    words: Counter[str] = Counter()
    texts = _texts(corpus)
    while batch := list(itertools.islice(texts, _BATCH)):
        for encoding in splitter.encode_batch(batch, add_special_tokens=False):
            words.update(word for word, place in zip(encoding.tokens, encoding.ids, strict=True) if place == 0)
    if not words:
        raise VocabularyError("The corpus holds no text. Give texts of the kind that the model will read.")
    return words


def _texts(corpus: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(corpus):
        if not isinstance(text, str):
            raise VocabularyError(f"corpus holds texts; number {number} is a {type(text).__name__}.")
        yield text


def _named(tokenizer: PreTrainedTokenizerBase, content: Mapping[str, Any]) -> set[int]:
    """Ids that something besides the vocabulary names: added and special tokens, those put around every text, padding."""
    named = {token["id"] for token in content["added_tokens"]} | set(tokenizer.all_special_ids)

    def note(old: int) -> int:
        named.add(old)
        return old

    _with_ids(content["post_processor"], note)
    if content["padding"] is not None:
        named.add(content["padding"]["pad_id"])
    return named


def _with_ids(processor: Mapping[str, Any] | None, new: Callable[[int], int]) -> dict[str, Any] | None:
    """A post-processor with `new(id)` in place of every token id."""
    if processor is None:
        return None
    made = dict(processor)
    if "processors" in made:
        made["processors"] = [_with_ids(inner, new) for inner in made["processors"]]
    if "special_tokens" in made:  # TemplateProcessing
        tokens = made["special_tokens"].items()
        made["special_tokens"] = {name: {**token, "ids": [new(i) for i in token["ids"]]} for name, token in tokens}
    for name in ("cls", "sep"):  # BertProcessing, RobertaProcessing
        if name in made:
            made[name] = [made[name][0], new(made[name][1])]
    return made


def _chosen(pieces: Pieces, words: Mapping[str, int], named: set[int], vocab_size: int | None) -> set[int]:
    """The ids that stay: what every text needs, then the most frequent."""
    uses: Counter[int] = Counter()
    needed = named | pieces.fixed
    for word, count in words.items():
        read, letters = pieces.tokenize(word)
        needed |= letters
        for piece in read:
            uses[piece] += count
    chosen: set[int] = set()
    for piece in needed:
        chosen |= pieces.with_parts(piece)
    if vocab_size is not None and vocab_size < len(chosen):
        raise VocabularyError(
            f"vocab_size={vocab_size} is too small: special tokens and the single characters of the corpus are {len(chosen)}, "
            "the smallest size that can tokenize every text of it."
        )
    for piece, _ in sorted(uses.items(), key=lambda pair: (-pair[1], pair[0])):
        more = pieces.with_parts(piece) - chosen
        if vocab_size is None or len(chosen) + len(more) <= vocab_size:
            chosen |= more
    return chosen


def _renumbered(content: dict[str, Any], pieces: Pieces, new: Mapping[int, int]) -> dict[str, Any]:
    """The content of tokenizer.json with the tokens of `new` alone, an old id -> new id."""
    padding = content["padding"]
    return {
        **content,
        "model": pieces.trimmed(new),
        "added_tokens": [{**token, "id": new[token["id"]]} for token in content["added_tokens"]],
        "post_processor": _with_ids(content["post_processor"], lambda old: new.get(old, old)),
        "padding": padding and {**padding, "pad_id": new.get(padding["pad_id"], 0)},
    }


def _reloaded(tokenizer: PreTrainedTokenizerBase, content: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer of the same class that was read from `content`, as everybody will read it who loads it."""
    with scratch("tokenizer") as folder:
        tokenizer.save_pretrained(folder)
        (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        made = type(tokenizer).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    found = json.loads(made.backend_tokenizer.to_str())
    changed = [part for part in _PARTS if not _alike(found[part], content[part])]
    added = [{t["content"]: t["id"] for t in one["added_tokens"]} for one in (found, content)]
    if changed or added[0] != added[1]:
        raise VocabularyError(
            f"`{type(tokenizer).__name__}` sets up its {', '.join(changed or ['added tokens'])} by itself, and not as this "
            "tokenizer has it: a trimmed one would be another. Save it, and trim what AutoTokenizer makes of the files."
        )
    made.init_kwargs["local_files_only"] = tokenizer.init_kwargs.get("local_files_only", False)
    made.name_or_path = made.init_kwargs["name_or_path"] = tokenizer.name_or_path
    return made


def _alike(first: Any, second: Any) -> bool:
    """Whether two pieces of JSON say the same. The reader of `tokenizers` gets the last digit of a score wrong at times."""
    if isinstance(first, float):
        return isinstance(second, (int, float)) and math.isclose(first, second, rel_tol=1e-12)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_alike(value, second[key]) for key, value in first.items())
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_alike, first, second))
    return first == second
