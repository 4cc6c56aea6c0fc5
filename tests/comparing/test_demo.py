"""The demo on tiny models: what it writes, and that its comparison is a fair one."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification, ViTImageProcessorPil, ViTModel
from transformers.utils import logging

from hf_learngene.comparing import demo
from hf_learngene.errors import UnknownOptionError
from testing import trained_tokenizers


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_attention_heads=3, intermediate_size=48, num_hidden_layers=2, image_size=24, patch_size=4
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(path)
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    tokenizer = trained_tokenizers.bert()
    config = BertConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, vocab_size=len(tokenizer)
    )
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


@pytest.fixture(scope="module")
def finished(image_model, text_model, tmp_path_factory):
    output, console = tmp_path_factory.mktemp("out") / "new" / "folder", Console(file=io.StringIO(), width=100)
    results = demo.run_demo(image_model, text_model, output, steps=2, seeds=2, console=console)
    return output, results, console.file.getvalue()


def test_writes_a_picture_and_figures(finished):
    output, results, _ = finished
    assert sorted(path.name for path in output.iterdir()) == ["learning_curves.png", "results.json"]
    assert (output / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    # Keys of a JSON object are strings, so the learning rates come back as such.
    assert json.loads((output / "results.json").read_text()) == json.loads(json.dumps(results))


def test_figures_are_complete(finished):
    _, results, _ = finished
    training = results["training"]
    assert training["steps"] == [0, 1, 2]
    assert training["seeds"] == [0, 1]
    assert set(training["test_accuracy"]) == set(training["learning_rates"]) == {"resized", "random"}
    for start, curves in training["test_accuracy"].items():
        assert np.shape(curves) == (2, 3)
        assert 0 <= np.min(curves) <= np.max(curves) <= 1
        rates = training["learning_rates"][start]
        best = max(rates["validation_accuracy"].values())
        assert rates["validation_accuracy"][rates["chosen"]] == best
    assert sum(training["images"].values()) == 1797
    assert results["seconds"] > 0


def test_one_learngene_makes_models_of_several_sizes(finished):
    _, results, said = finished
    facts = results["learngene"]
    assert [m["layers"] for m in facts["models"]] == [1, 1, 2, 4]
    assert facts["the_largest_is_the_same_function"]
    assert all(-1 <= m["rank_correlation"] <= 1 for m in facts["models"])
    assert 0 < facts["stored_share"] < 1
    assert "the same function" in said


def test_the_text_model_is_grown(finished):
    _, results, _ = finished
    text = results["text_model"]
    assert text["target"]["hidden_size"] == 32
    assert text["target"]["num_hidden_layers"] == 4
    assert text["target"]["parameters"] > text["source"]["parameters"]
    assert text["method"] == "lemon"
    assert text["function_preserving"] is True
    assert text["max_abs_difference"] < 1e-4


def test_both_models_are_shrunk_without_data_beside_weight_selection(finished):
    _, results, shown = finished
    rows = results["untrained"]
    assert [(row["model"], row["start"]) for row in rows] == [
        (model, start)
        for model in ("sentence encoder", "vision encoder")
        for start in ("made-up examples", "weight selection")
    ]
    for row in rows:
        assert row["encoder_share"] < 0.8
        assert -1 <= row["rank_correlation"] <= 1
        assert f"{row['rank_correlation']:.3f}" in shown
    made, selected = rows[2:]
    assert made["rank_correlation"] > selected["rank_correlation"]


def test_shows_tables(finished):
    output, results, shown = finished
    assert f"{results['text_model']['target']['parameters']:,}" in shown
    assert "mean (range) of 2 seeds" in shown
    assert "resized" in shown
    assert "learning_curves.png" in shown


def test_nothing_is_chosen_on_the_test_images(image_model, monkeypatch):
    calls = []
    own = demo.compare

    def record(source, sizes, train, held_out, *, learning_rate, seeds, steps, **given):
        calls.append((len(train), [e["labels"] for e in held_out], learning_rate, list(seeds)))
        return own(
            source,
            sizes,
            train[:8],
            held_out[:8],
            learning_rate=learning_rate,
            seeds=seeds,
            steps=1,
            **given | {"eval_steps": 1},
        )

    monkeypatch.setattr(demo, "compare", record)
    training, _ = demo.compare_starts(image_model, 2, range(2))
    digits = demo.load_images(image_model, 16)
    validation, test = ([e["labels"] for e in part] for part in (digits.validation, digits.test))
    *tuning, last = calls
    assert [(held_out, seeds) for _, held_out, _, seeds in tuning] == [(validation, [0])] * len(demo.LEARNING_RATES)
    assert [rate for _, _, rate, _ in tuning] == list(demo.LEARNING_RATES)
    assert (last[1], last[3]) == (test, [0, 1])
    assert last[2] == {start: rates["chosen"] for start, rates in training["learning_rates"].items()}
    assert {size for size, *_ in calls} == {len(digits.train)}


def test_digits_are_split_in_proportion(image_model):
    digits = demo.load_images(image_model, 16)
    parts = (digits.train, digits.validation, digits.test)
    assert all(example["pixel_values"].shape == (3, 16, 16) for part in parts for example in part)
    labels = [torch.tensor([example["labels"] for example in part]) for part in parts]
    shares = torch.stack([part.bincount(minlength=10) / len(part) for part in labels])
    assert (shares - 0.1).abs().max() < 0.02
    assert sum(map(len, parts)) == 1797
    again = demo.load_images(image_model, 16)
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(again.test, digits.test, strict=True))


@pytest.mark.parametrize("option", [{"steps": 0}, {"seeds": 0}])
def test_refuses_to_do_nothing(option, image_model, text_model, tmp_path):
    with pytest.raises(UnknownOptionError, match="at least 1; it was 0"):
        demo.run_demo(image_model, text_model, tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_leaves_verbosity_and_random_state_alone(finished, image_model):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    demo.compare_starts(image_model, 1, [0])
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]


def test_sizes_of_odd_models():
    config = ViTForImageClassification.config_class(hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
    assert demo.small_sizes(config) == {"hidden_size": 8, "num_hidden_layers": 1, "image_size": 64}
