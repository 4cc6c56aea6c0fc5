"""A few of the examples: the same ones whatever the batches, spread over all, and no more tokens than are needed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from hf_learngene.calibration import shares
from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.few import few
from testing.examples import examples_for
from testing.families import tiny_model


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert", "BertForSequenceClassification")


def taken(batches):
    """Token ids of each example, without padding."""
    return [
        row[shown.bool()].tolist()
        for b in batches
        for row, shown in zip(b["input_ids"], b["attention_mask"], strict=True)
    ]


@pytest.mark.parametrize("most", [1, 7, 40])
def test_they_are_the_same_whatever_the_batches(bert, most):
    rows = examples_for(bert)
    with Examples(rows, bert) as by_many:
        found = taken(few(by_many, bert, most))
        with Examples(DataLoader(rows, batch_size=7, collate_fn=by_many._batch), bert) as by_7:
            assert taken(few(by_7, bert, most)) == found
    assert len(found) == most
    given = [row["input_ids"] for row in rows]
    places = [given.index(row) for row in found]
    assert places == sorted(places)
    assert most == 1 or max(b - a for a, b in zip(places, places[1:], strict=False)) <= -(-len(rows) // (most - 1))


def test_of_texts_no_more_than_their_tokens_ask_for(bert):
    with Examples(examples_for(bert), bert) as examples:
        lengths = [len(row) for row in taken(few(examples, bert, 96, tokens=100))]
        assert 100 <= sum(lengths) <= 100 + 2 * max(lengths)
        assert len(taken(few(examples, bert, 3, tokens=100))) == 3


def test_of_images_no_more_than_their_tokens_ask_for():
    vit = tiny_model("vit", "ViTForImageClassification")
    patches = (vit.config.image_size // vit.config.patch_size) ** 2
    with Examples(examples_for(vit), vit) as examples:
        for tokens, wanted in ((10 * patches, 10), (1, 8), (None, 20)):
            assert sum(len(b["pixel_values"]) for b in few(examples, vit, 20, tokens)) == wanted


def test_fewer_than_asked_for_are_all(bert):
    with Examples(examples_for(bert, count=9), bert) as examples:
        assert sum(len(b["input_ids"]) for b in few(examples, bert, 20)) == 9
        assert torch.equal(few(examples, bert, 20)[0]["input_ids"], next(examples.batches())["input_ids"])


def test_two_processes_share_them_even_where_all_are_in_one_batch(bert):
    with Examples(examples_for(bert, count=9), bert) as examples:
        parts = []
        for index in range(2):
            token = shares._SHARING.set(SimpleNamespace(process_index=index, num_processes=2))
            try:
                parts.append(taken(few(examples, bert, 5)))
            finally:
                shares._SHARING.reset(token)
        assert [len(part) for part in parts] == [3, 2]
        assert sorted(parts[0] + parts[1]) == sorted(taken(few(examples, bert, 5)))
