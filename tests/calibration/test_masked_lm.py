"""Texts that a masked language model writes: its own words, each seen by those that are written later."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from hf_learngene.calibration.synthetic import examples_needed, synthetic_examples
from hf_learngene.calibration.synthetic.masked_lm import LONGEST_WRITTEN, ROUNDS
from hf_learngene.calibration.synthetic.texts import UNIFORM
from testing import trained_tokenizers
from testing.families import TEXT, tiny_model


TOKENIZER = trained_tokenizers.bert()
MASK = TOKENIZER.mask_token_id
FAMILIES = [(kind, name) for kind, names in TEXT.items() for name in names if name.endswith("ForMaskedLM")]


def masked_lm(**given):
    config = BertConfig(vocab_size=len(TOKENIZER), hidden_size=24, num_attention_heads=3, num_hidden_layers=1,
                        intermediate_size=40, **given)  # fmt: skip
    return BertForMaskedLM(config).eval()


def words_of(model, count, **given):
    rows = synthetic_examples(model, TOKENIZER, count=count, **given)["input_ids"]
    return [row.tolist()[1:-1] for number, row in enumerate(rows) if number % UNIFORM != UNIFORM - 1]


@pytest.mark.parametrize(("kind", "name"), FAMILIES)
def test_every_masked_lm_writes(kind, name):
    model = tiny_model(kind, name, dtype=torch.float32)
    examples = synthetic_examples(model, TOKENIZER, count=10)
    rows = [row.tolist() for row in examples["input_ids"]]
    size, special = model.config.get_text_config().vocab_size, set(TOKENIZER.all_special_ids)
    assert all(0 <= i < size and i not in special for row in rows for i in row[1:-1])
    assert [row.tolist() for row in synthetic_examples(model, TOKENIZER, count=10)["input_ids"]] == rows


def test_words_are_drawn_as_often_as_the_model_expects_them():
    model, (first, second) = masked_lm(), TOKENIZER.convert_tokens_to_ids(["the", "garden"])
    with torch.no_grad():
        model.cls.predictions.transform.LayerNorm.weight.zero_()
        model.cls.predictions.transform.LayerNorm.bias.zero_()
        model.cls.predictions.bias.fill_(-1e4)
        model.cls.predictions.bias[torch.tensor([first, second])] = torch.tensor([0.75, 0.25]).log()
        model.cls.predictions.bias[MASK] = 100.0  # no word
    words = [i for row in words_of(model, 60) for i in row]
    assert set(words) == {first, second}
    assert len(words) > 1000
    assert abs(words.count(first) / len(words) - 0.75) < 0.05


def test_later_words_are_asked_for_beside_those_that_were_drawn():
    seen = []

    class WatchedForMaskedLM(BertForMaskedLM):
        def forward(self, input_ids, **given):
            seen.append(input_ids.clone())
            return super().forward(input_ids, **given)

    words = words_of(WatchedForMaskedLM(masked_lm().config), 1)[0]
    assert len(words) >= ROUNDS == len(seen)
    assert bool((seen[0][0, 1:-1] == MASK).all())
    for before, after in zip(seen, seen[1:], strict=False):
        filled = before != MASK
        assert torch.equal(before[filled], after[filled])
        share = int(((before == MASK) & (after != MASK)).sum()) / len(words)
        assert abs(share - 1 / ROUNDS) <= 1 / len(words)
    filled = seen[-1][0, 1:-1] != MASK
    assert torch.equal(torch.tensor(words)[filled], seen[-1][0, 1:-1][filled])


def test_few_are_the_first_of_many_and_their_lengths_vary():
    model = masked_lm()
    many = words_of(model, 80, seed=5)
    assert words_of(model, 3, seed=5) == many[:3]
    lengths = [len(row) for row in many]
    assert min(lengths) < 30 < 100 < max(lengths) <= LONGEST_WRITTEN


def test_the_model_and_the_random_state_are_as_they_were():
    model = masked_lm().train()
    model.bert.embeddings.eval()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(0), np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = words_of(model, 3)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert words_of(model.eval(), 3) == first  # dropout had no say


def test_who_has_no_head_or_no_mask_token_does_not_write():
    plain = BertModel(masked_lm().config)
    rows = synthetic_examples(plain, TOKENIZER, count=60)["input_ids"]
    assert max(map(len, rows)) <= 42
    assert (
        max(map(len, synthetic_examples(masked_lm(), count=60)["input_ids"])) <= 42
    )  # no tokenizer: which is the mask?
    smaller = BertForMaskedLM(BertConfig(vocab_size=MASK, hidden_size=24, num_attention_heads=3, num_hidden_layers=1))
    assert max(map(len, synthetic_examples(smaller, TOKENIZER, count=60)["input_ids"])) <= 42  # it has no row for it
    wide = masked_lm(max_position_embeddings=512)
    wide.config.intermediate_size = 3072
    assert 32 < examples_needed(wide, TOKENIZER) < examples_needed(wide)
