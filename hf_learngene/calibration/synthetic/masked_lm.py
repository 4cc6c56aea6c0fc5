"""Texts that a masked language model writes itself: it knows the language that it was trained on, whatever that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_learngene.calibration.synthetic.texts import of_any_tokens
from hf_learngene.calibration.synthetic.vocabulary import Vocabulary
from hf_learngene.state import evaluating


LONGEST_WRITTEN = 128  # words
ROUNDS = 8  # passes of the model, each of which fills in an equal share of the tokens
ENTRIES = 2**25  # of the model's output that are in memory at once
_MASKED_LM = "ForMaskedLM"


def is_masked_lm(model_class: type[PreTrainedModel] | str) -> bool:
    """Whether a class, or the class of that name, fills in masked tokens.

    Example:
        >>> is_masked_lm("BertForMaskedLM"), is_masked_lm("BertForQuestionAnswering")
        (True, False)
    """
    return (model_class if isinstance(model_class, str) else model_class.__name__).endswith(_MASKED_LM)


def mask_of(model_class: type[PreTrainedModel], processing_class: Any, size: int) -> int | None:
    """Id of the mask token of a model that can write; None where it has no masked-LM head, or it is not told which id that is.

    Args:
        model_class (`type[PreTrainedModel]`): class of the model.
        processing_class: its tokenizer.
        size: number of token ids that the model has.
    """
    if not is_masked_lm(model_class):
        return None
    found = getattr(getattr(processing_class, "tokenizer", processing_class), "mask_token_id", None)
    return found if found is not None and found < size else None


def written(
    model: PreTrainedModel, columns: Mapping[str, list[list[int]]], mask: int, vocabulary: Vocabulary, seed: int
) -> list[list[int]]:
    """Texts of the same lengths and framing, in which a model has written the words. Those of any tokens stay.

    All words are masked at first. In each of a few rounds the model is asked for an equal share of them, in random order, and
    each is drawn from its probabilities; later rounds see what was drawn. This is mask-predict (Ghazvininejad et al. 2019, arXiv
    1904.09324) with words drawn instead of decided, so that texts differ as the language does, and none is changed again.

    Args:
        model (`PreTrainedModel`): it has a masked-LM head.
        columns: token ids of framed texts, and what goes with them.
        mask: id of the mask token.
        vocabulary: what may be drawn, and what frames a text.
        seed: for every random number; text `i` depends on it and on `i`.

    Returns:
        Token ids of every text, in the order and of the lengths that were given, without padding.
    """
    found = list(columns["input_ids"])
    texts = [i for i in range(len(found)) if not of_any_tokens(i)]
    with torch.no_grad(), evaluating(model):
        for numbers in _batches(texts, found, model.config.get_text_config().vocab_size):
            rows = _filled(
                model, {n: [v[i] for i in numbers] for n, v in columns.items()}, numbers, mask, vocabulary, seed
            )
            for number, row in zip(numbers, rows, strict=True):
                found[number] = row
    return found


def _filled(
    model: PreTrainedModel,
    columns: Mapping[str, list[list[int]]],
    numbers: Sequence[int],
    mask: int,
    vocabulary: Vocabulary,
    seed: int,
) -> list[list[int]]:
    """One batch of `written`."""
    texts, allowed = columns["input_ids"], torch.from_numpy(vocabulary.tokens)
    batch = {n: pad_sequence([torch.tensor(row) for row in rows], batch_first=True) for n, rows in columns.items()}
    ids = batch["input_ids"]
    order, drawn = torch.full(ids.shape, torch.inf), torch.zeros(ids.shape, dtype=torch.float64)
    for row, (text, number) in enumerate(zip(texts, numbers, strict=True)):
        generator = np.random.default_rng((seed, number, 1))
        words = slice(len(vocabulary.before), len(text) - len(vocabulary.after))
        count = words.stop - words.start
        ids[row, words] = mask
        order[row, words] = torch.from_numpy(generator.permutation(count) // (count / ROUNDS)).float()
        drawn[row, words] = torch.from_numpy(generator.random(count))
    device = next(model.parameters()).device
    for number in range(ROUNDS):
        now = order == number
        if bool(now.any()):
            logits = model(**{n: v.to(device) for n, v in batch.items()}).logits
            heaps = logits[now.to(device)].cpu().double()[:, allowed].softmax(-1).cumsum(-1)
            places = torch.searchsorted(heaps, drawn[now][:, None] * heaps[:, -1:])
            ids[now] = allowed[places[:, 0].clamp_max(len(allowed) - 1)]
    return [ids[row, : len(text)].tolist() for row, text in enumerate(texts)]


def _batches(numbers: Iterable[int], texts: Sequence[list[int]], vocab_size: int) -> Iterator[list[int]]:
    """Numbers of texts that are written together: in order, as many as memory is granted for."""
    batch: list[int] = []
    longest = 0
    for number in numbers:
        longest = max(longest, len(texts[number]))
        if batch and longest * (len(batch) + 1) * vocab_size > ENTRIES:
            yield batch
            batch, longest = [], len(texts[number])
        batch.append(number)
    if batch:
        yield batch


__all__ = ["LONGEST_WRITTEN", "mask_of", "written"]
