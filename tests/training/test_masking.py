"""Masks of masked-LM training: drawn anew for every batch, and the same again for a run that is resumed."""

from __future__ import annotations

import torch
from transformers import DataCollatorForLanguageModeling

from hf_learngene.training.masking import ResumableMasking
from testing.saving import tokenizer


TEXTS = [{"input_ids": torch.arange(5, 35).roll(i).tolist()} for i in range(16)]


def masks(collator, *places):
    return collator([TEXTS[i] for i in places])["labels"].ne(-100)


def test_a_batch_is_masked_alike_whatever_came_before():
    fresh, used = (ResumableMasking(tokenizer(), seed=3) for _ in range(2))
    for start in range(0, 12, 4):
        masks(used, *range(start, start + 4))
    assert torch.equal(masks(fresh, 12, 13, 14, 15), masks(used, 12, 13, 14, 15))


def test_another_batch_or_seed_is_masked_otherwise():
    collator = ResumableMasking(tokenizer(), seed=3)
    first = masks(collator, 0, 1, 2, 3)[0]
    others = [masks(collator, 0, 1, 2, 4)[0], masks(collator, 0, 2, 1, 3)[0],
              masks(ResumableMasking(tokenizer(), seed=4), 0, 1, 2, 3)[0]]  # fmt: skip
    assert all(not torch.equal(first, other) for other in others)


def test_as_many_tokens_are_masked_as_transformers_masks():
    drawn = []
    for collator in (ResumableMasking(tokenizer(), seed=0), DataCollatorForLanguageModeling(tokenizer(), seed=0)):
        batches = [
            masks(collator, *torch.randperm(16, generator=torch.Generator().manual_seed(i)).tolist())
            for i in range(40)
        ]
        drawn.append(float(torch.stack(batches).float().mean()))
    assert abs(drawn[0] - drawn[1]) < 0.01
    assert abs(drawn[0] - 0.15) < 0.01


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    masks(ResumableMasking(tokenizer(), seed=0), 0, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
