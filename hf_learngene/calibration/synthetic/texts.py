"""Made-up texts as the columns of a model that reads tokens: whole words as frequent as Zipf's law has them, and any tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from hf_learngene.calibration.synthetic.vocabulary import OFFSET, Vocabulary, of_config, of_tokenizer
from hf_learngene.errors import SyntheticExamplesError, first_line


SHORTEST, LONGEST = 4, 40  # words
COMMAS, MARKS = 0.05, 0.03  # of the tokens of a text: BERTs look at its signs more than at its words
STOPS = 0.7  # of the texts
QUESTION = 4  # of so many words of a pair one is the question's
UNIFORM = 8  # one text in so many is of any tokens: the rows of rare ones are else never seen


def token_columns(
    part: PreTrainedConfig,
    processing_class: Any,
    count: int,
    seed: int,
    taken: set[str],
    size: int,
    room: int | None,
    pairs: bool = False,
    longest: int = LONGEST,
) -> dict[str, list[list[int]]]:
    """Columns of texts, without padding.

    Args:
        part: the config that has the size of the vocabulary, and the special tokens where there is no tokenizer.
        processing_class: the checkpoint's tokenizer.
        count: of examples.
        seed: for every random number.
        taken: names of the columns that the model reads.
        size: number of token ids that the model has.
        room: tokens of the longest text that it takes.
        pairs: whether each example is two texts, a question and what may hold its answer.
        longest: words of the longest text.

    Raises:
        SyntheticExamplesError: what was given is no tokenizer.
    """
    vocabulary = vocabulary_of(part, processing_class, size)
    weights = np.cumsum(1 / (np.arange(len(vocabulary.words)) + OFFSET))
    shortest, longest = lengths(vocabulary.framing(pairs), room, longest)
    ids, types = [], []
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        text = _text(number, generator, vocabulary, weights, int(generator.integers(shortest, longest + 1)))
        asked = len(text) // QUESTION if pairs else 0
        first = [*vocabulary.before, *text[:asked], *vocabulary.between] if pairs else []
        second = [*text[asked:], *vocabulary.after] if pairs else [*vocabulary.before, *text, *vocabulary.after]
        ids.append(first + second)
        types.append([0] * len(first) + [int(pairs)] * len(second))
    columns = {"input_ids": ids}
    if "attention_mask" in taken:
        columns["attention_mask"] = [[1] * len(row) for row in ids]
    if "token_type_ids" in taken and (kinds := getattr(part, "type_vocab_size", None)):
        columns["token_type_ids"] = [[min(t, kinds - 1) for t in row] for row in types]
    return columns


def _text(
    number: int, generator: np.random.Generator, vocabulary: Vocabulary, weights: NDArray[np.float64], length: int
) -> list[int]:
    """The tokens of one text, without what frames it."""
    drawn = generator.random(length)
    if of_any_tokens(number):
        return vocabulary.tokens[(drawn * len(vocabulary.tokens)).astype(np.int64)].tolist()
    text = vocabulary.words[np.searchsorted(weights, drawn * weights[-1], side="right")]
    place = generator.random(length)[1:-1]
    for ids, low, high in ((vocabulary.comma, 0.0, COMMAS), (vocabulary.marks, COMMAS, COMMAS + MARKS)):
        if ids:
            here = np.flatnonzero((place >= low) & (place < high)) + 1
            text[here] = np.asarray(ids)[generator.integers(0, len(ids), len(here))]
    if vocabulary.stop and length > 1 and generator.random() < STOPS:
        text[-1] = vocabulary.stop[0]
    return text.tolist()


def of_any_tokens(number: int) -> bool:
    """Whether the text of a number is of any tokens, instead of words."""
    return number % UNIFORM == UNIFORM - 1


def vocabulary_of(part: PreTrainedConfig, processing_class: Any, size: int) -> Vocabulary:
    """The vocabulary of the tokenizer, or of the config where there is none.

    Raises:
        SyntheticExamplesError: what was given is no tokenizer.
    """
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if tokenizer is None:
        return of_config(part, size)
    try:
        return of_tokenizer(tokenizer, size)
    except (AttributeError, TypeError) as error:
        raise SyntheticExamplesError(
            "input_ids",
            f"{type(tokenizer).__name__} is no tokenizer ({first_line(error)}). Give the tokenizer of the model's own "
            "checkpoint, or none",
        ) from error


def lengths(framing: int, room: int | None, longest: int = LONGEST) -> tuple[int, int]:
    """Fewest and most words of a text that has `framing` tokens around it, in a model that has room for so many."""
    longest = longest if room is None else max(1, min(longest, room - framing))
    return min(SHORTEST, longest), longest


__all__ = ["lengths", "of_any_tokens", "token_columns", "vocabulary_of"]
