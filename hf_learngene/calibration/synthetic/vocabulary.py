"""What made-up texts are made of: the whole words of a vocabulary, all its tokens, and what frames a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig


OFFSET = 3  # probability of a word: 1 / (rank + OFFSET), Zipf's law as Mandelbrot bent it
_STARTS = ("▁", "Ġ")  # what marks the first piece of a word: SentencePiece, byte-level BPE
_END = "</w>"  # what marks the last one
_COMMAS, _STOPS = (",", "、", "،"), (".", "。", "।", "۔")
_COMMON = 0.1  # of a vocabulary, from which on a mark counts as its own


@dataclass(frozen=True)
class Vocabulary:
    """Token ids to draw from.

    Attributes:
        words: whole words, the most frequent first.
        tokens: every token that is not special.
        before: what a text starts with.
        after: what it ends with.
        between: what parts two texts that are read together.
        comma: what parts the clauses of a sentence, if there is such a token.
        stop: what ends a sentence, likewise.
        marks: every other sign that is neither letter nor digit.
    """

    words: NDArray[np.int64]
    tokens: NDArray[np.int64]
    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]
    comma: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()

    def framing(self, pairs: bool) -> int:
        """Number of tokens around a text, or around and between two."""
        return len(self.before) + len(self.after) + (len(self.between) if pairs else 0)


def of_tokenizer(tokenizer: Any, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer, as far as a model of `size` token ids has it."""
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    ids = {i: t for t, i in tokenizer.get_vocab().items() if i < size and i not in special}
    tokens = np.array(sorted(ids) or [0], dtype=np.int64)
    words = np.array(sorted(_words(ids)), dtype=np.int64)
    words = words if len(words) else tokens
    signs = {_bare(t): i for i, t in ids.items() if len(_bare(t)) == 1 and not _bare(t).isalnum()}
    comma, stop = (next(((signs[m],) for m in marks if m in signs), ()) for marks in (_COMMAS, _STOPS))
    others = tuple(sorted({i for s, i in signs.items() if s.isascii()} - {*comma, *stop}))
    return Vocabulary(words, tokens, *_frame(tokenizer, int(words[0])), comma, stop, others)


def of_config(config: PreTrainedConfig, size: int) -> Vocabulary:
    """The vocabulary of a config, which says how many tokens there are and which are special; each counts as a word."""
    named = {n: i for n, i in vars(config).items() if n.endswith("_token_id") and isinstance(i, int)}
    special = {i for i in named.values() if 0 <= i < size}
    tokens = np.array([i for i in range(size) if i not in special] or [0], dtype=np.int64)

    def first(*names: str) -> tuple[int, ...]:
        return next(((named[f"{n}_token_id"],) for n in names if named.get(f"{n}_token_id") in special), ())

    before, after = first("cls", "bos"), first("sep", "eos")
    likes_roberta = first("cls") == () != first("bos")  # they part two texts by two separators
    return Vocabulary(tokens, tokens, before, after, after * (2 if likes_roberta else 1))


def _bare(token: str) -> str:
    """A token without what marks the end of a word."""
    return token.removesuffix(_END)


def _words(ids: dict[int, str]) -> list[int]:
    """Ids of whole alphabetic words, by the mark that the vocabulary puts before a word, after it, or inside it."""
    marked = {mark: {i: t[len(mark) :] for i, t in ids.items() if t.startswith(mark)} for mark in _STARTS}
    marked[_END] = {i: t[: -len(_END)] for i, t in ids.items() if t.endswith(_END)}
    bare = next((found for found in marked.values() if len(found) >= _COMMON * len(ids)), ids)
    words = {i: t for i, t in bare.items() if t.isalpha()}
    # the alphabet comes first in many vocabularies, and is not what texts are made of, unless it is all there is
    longer = [i for i, t in words.items() if len(t) > 1]
    return longer if 2 * len(longer) >= len(words) else list(words)


def _frame(tokenizer: Any, word: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before, behind and between texts, seen on one word."""
    try:
        text = tokenizer.decode([word])
        inside = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        whole, pair = list(tokenizer(text)["input_ids"]), list(tokenizer(text, text)["input_ids"])
        start = next(i for i in range(len(whole)) if inside and whole[i : i + len(inside)] == inside)
    except Exception:  # tokenizers of tables or pages take no plain text; their own classes of error are many
        end = _first(tokenizer, "sep", "eos")
        return _first(tokenizer, "cls", "bos"), end, end
    before, after = whole[:start], whole[start + len(inside) :]
    between = pair[start + len(inside) : len(pair) - len(after) - len(inside)]
    return tuple(before), tuple(after), tuple(between)


def _first(tokenizer: Any, *names: str) -> tuple[int, ...]:
    ids = (getattr(tokenizer, f"{n}_token_id", None) for n in names)
    return next(((i,) for i in ids if i is not None), ())


__all__ = ["OFFSET", "Vocabulary", "of_config", "of_tokenizer"]
