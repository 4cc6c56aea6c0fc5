"""Models inside fast tokenizers: which tokens a word becomes, which others these rest on, and the same model with fewer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from hf_learngene.errors import VocabularyError


class Pieces(ABC):
    """A model of `tokenizers` that can be trimmed, of any of the four kinds.

    Args:
        model: the `model` of a tokenizer.json.
        alphabet: pieces that stay if there are any such.

    Attributes:
        ids: piece -> id.
        unknown: id of the unknown piece, or None.
        bytes: ids of the pieces for single bytes, which spell a character that is no piece.
        fixed: ids that stay whatever the corpus.
    """

    def __init__(self, model: Mapping[str, Any], alphabet: Iterable[str] = ()) -> None:
        self.model = model
        self.ids: dict[str, int] = self._ids()
        self.unknown: int | None = self._unknown()
        self.bytes = {self.ids[name] for name in self._byte_names() if name in self.ids}
        self.fixed = {self.ids[letter] for letter in alphabet if letter in self.ids} | self.bytes
        if self.unknown is not None:
            self.fixed.add(self.unknown)
        # What is counted must not be left to chance.
        counted = {**model, "dropout": None} if "dropout" in model else model
        alone = {"version": "1.0", "added_tokens": [], "model": counted}
        self._cut: Callable[[str], Any] = Tokenizer.from_str(json.dumps(alone)).model.tokenize

    def _ids(self) -> dict[str, int]:
        return self.model["vocab"]

    def _unknown(self) -> int | None:
        return self.ids.get(self.model.get("unk_token") or "")

    def _byte_names(self) -> Iterable[str]:
        return (f"<0x{byte:02X}>" for byte in range(256)) if self.model.get("byte_fallback") else ()

    def tokens(self, word: str) -> list[Any]:
        """Tokens of a word, with `id` and `value`.

        Raises:
            VocabularyError: it has nothing for the word, not even an unknown token.
        """
        try:
            return self._cut(word)
        except Exception as error:  # the only class that tokenizers raises
            raise VocabularyError(f"The tokenizer cannot read {word!r} of the corpus: {error}") from error

    @abstractmethod
    def tokenize(self, word: str) -> tuple[list[int], set[int]]:
        """(ids of a word's tokens now, ids that it can be tokenized into whatever else is pruned)."""

    def with_parts(self, piece: int) -> set[int]:
        """Ids of a piece and of everything that it is merged from."""
        return {piece}

    def trimmed(self, new: Mapping[int, int]) -> dict[str, Any]:
        """The model with the pieces of `new` alone (old id -> new id), in the form that it came in."""
        left = sorted((new[i], piece) for piece, i in self.ids.items() if i in new)
        return {**self.model, "vocab": {piece: i for i, piece in left}}


class WordLevel(Pieces):
    """WordLevel: a word is one piece, or unknown."""

    def tokenize(self, word: str) -> tuple[list[int], set[int]]:
        read = [token.id for token in self.tokens(word)]
        return read, set() if self.unknown is not None else set(read)


class WordPiece(Pieces):
    """WordPiece: the longest piece that fits, from left to right; a word with a place where none fits is unknown.

    What is the longest of many stays the longest of fewer, so a word whose pieces stay is cut as before.
    """

    def tokenize(self, word: str) -> tuple[list[int], set[int]]:
        read = [token.id for token in self.tokens(word)]
        if read == [self.unknown]:
            # With a shorter piece in the place of its first ones the word might find an end, and be unknown no more.
            return self._until_stuck(word), set()
        letters = [self.ids.get(self._letter(word, place)) for place in range(len(word))]
        # Where every letter is a piece, there is always one that fits. A word with another one needs the pieces it has.
        return read, set(read) if None in letters else {i for i in letters if i is not None}

    def _letter(self, word: str, place: int) -> str:
        return (self.model["continuing_subword_prefix"] if place else "") + word[place]

    def _until_stuck(self, word: str) -> list[int]:
        read: list[int] = []
        start, prefix = 0, self.model["continuing_subword_prefix"]
        while start < len(word) <= self.model["max_input_chars_per_word"]:
            ends = range(len(word), start, -1)
            end = next((e for e in ends if (prefix if start else "") + word[start:e] in self.ids), None)
            if end is None:
                break
            read.append(self.ids[(prefix if start else "") + word[start:end]])
            start = end
        return read


class Bpe(Pieces):
    """Byte-pair encoding: letters, then the merges that apply, the first in the list before all others.

    A piece comes from letters by merges inside it alone. Let every merge stay that makes a piece which stays, or one of its
    parts, and all in their order. At each step the first merge that applied before is still there, and none is new: it is
    again the first. So each word whose pieces stay is put together by the same steps.
    """

    def __init__(self, model: Mapping[str, Any], alphabet: Iterable[str] = ()) -> None:
        super().__init__(model, alphabet)
        self.names = {i: piece for piece, i in self.ids.items()}
        self.prefix = self.model.get("continuing_subword_prefix") or ""
        self.suffix = self.model.get("end_of_word_suffix") or ""
        self.makers: dict[str, list[tuple[str, str]]] = {}
        for first, second in map(self._pair, self.model["merges"]):
            self.makers.setdefault(self._merged(first, second), []).append((first, second))

    @staticmethod
    def _pair(merge: str | list[str]) -> tuple[str, str]:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        return first, second

    def _merged(self, first: str, second: str) -> str:
        return first + second[len(self.prefix) :]

    def tokenize(self, word: str) -> tuple[list[int], set[int]]:
        read = [token.id for token in self.tokens(word)]
        last = len(word) - 1
        spelled = [
            (self.prefix if i else "") + letter + (self.suffix if i == last else "") for i, letter in enumerate(word)
        ]
        letters = {self.ids[s] for s in spelled if s in self.ids}
        # A whole word may be looked up before it is spelled, and then have letters that are no pieces.
        whole = self.model.get("ignore_merges") and len(read) == 1 and not all(s in self.ids for s in spelled)
        return read, letters | set(read if whole else ())

    def with_parts(self, piece: int) -> set[int]:
        found, left = set(), [piece]
        while left:
            if (here := left.pop()) not in found:
                found.add(here)
                left += [self.ids[part] for pair in self.makers.get(self.names.get(here, ""), ()) for part in pair]
        return found

    def trimmed(self, new: Mapping[int, int]) -> dict[str, Any]:
        made = super().trimmed(new)
        left = made["vocab"]
        merges = [
            merge
            for merge, (first, second) in ((m, self._pair(m)) for m in self.model["merges"])
            if first in left and second in left and self._merged(first, second) in left
        ]
        return {**made, "merges": merges}


class Unigram(Pieces):
    """Unigram: of all ways to split a word into pieces, the one with the highest sum of scores.

    With fewer pieces there are fewer ways to cut a word, and the best of before is still the best. An unknown character counts
    as the lowest of all scores less a constant: the piece with the lowest stays, or what is unknown might become the better
    choice.
    """

    def __init__(self, model: Mapping[str, Any], alphabet: Iterable[str] = ()) -> None:
        super().__init__(model, alphabet)
        scores = [score for _, score in model["vocab"]]
        self.fixed.add(scores.index(min(scores)))
        if self.unknown is not None:
            # Some classes (XLM-R, ALBERT) have the place of the unknown piece in their code, so nothing before it may go.
            self.fixed |= set(range(self.unknown))

    def _ids(self) -> dict[str, int]:
        return {piece: i for i, (piece, _) in enumerate(self.model["vocab"])}

    def _unknown(self) -> int | None:
        return self.model["unk_id"]

    def tokenize(self, word: str) -> tuple[list[int], set[int]]:
        tokens = self.tokens(word)
        read = [token.id for token in tokens]
        spelled = self.bytes | {self.unknown}
        hidden = any(c not in self.ids for t in tokens if t.id not in spelled for c in t.value)
        # Where every letter is a piece, no cut is without an end. A word with another one needs the pieces it has.
        return read, {self.ids[c] for c in word if c in self.ids} | set(read if hidden else ())

    def trimmed(self, new: Mapping[int, int]) -> dict[str, Any]:
        left = [entry for i, entry in enumerate(self.model["vocab"]) if i in new]
        return {**self.model, "vocab": left, "unk_id": None if self.unknown is None else new[self.unknown]}


KINDS: dict[str, type[Pieces]] = {"WordPiece": WordPiece, "BPE": Bpe, "Unigram": Unigram, "WordLevel": WordLevel}
