"""A training goes on after a growth: by the loss of its next steps, beside the same growth with an optimizer that starts anew."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hf_learngene import resize_with_optimizer


CONFIG = {
    "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 32,
    "max_position_embeddings": 16, "num_labels": 3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
BEFORE, AFTER, FIRST = 150, 50, 10


def steps(model, optimizer, count, seed):
    """The losses of some steps on texts that are labelled by the sum of their tokens' scores."""
    scores = torch.randn(32, 3, generator=torch.Generator().manual_seed(9))
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        ids = torch.randint(1, 32, (32, 10), generator=generator)
        loss = model(input_ids=ids, labels=scores[ids].sum(1).argmax(1)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.slow
def test_the_next_steps_are_lower_and_the_fiftieth_no_worse():
    kept, anew = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(BertConfig(**CONFIG)).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        steps(model, optimizer, BEFORE, seed)
        for reset, found in ((None, kept), ("all", anew)):
            grown, made = resize_with_optimizer(model, optimizer, reset=reset, hidden_size=32, num_hidden_layers=4)
            found.append(steps(grown, made, AFTER, 100 + seed))
    kept, anew = torch.stack(kept), torch.stack(anew)
    assert kept[:, :FIRST].mean() < anew[:, :FIRST].mean()
    assert kept.mean() < anew.mean()
    assert kept[:, -FIRST:].mean() < anew[:, -FIRST:].mean() + 0.02  # by then both have learnt what their moments are
