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
    config = BertConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, vocab_size=40
    )
    BertModel(config).save_pretrained(path)
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
    assert [(m["layers"], m["width"]) for m in facts["models"]] == [(1, 16), (2, 16), (4, 16), (2, 32)]
    assert facts["twice_the_width_is_the_same_function"]
    assert 0 < facts["stored_share"] < 1
    assert "the same function" in said


def test_both_models_are_resized(finished):
    _, results, _ = finished
    image, text = results["image_model"], results["text_model"]
    assert image["target"]["hidden_size"] == 16
    assert image["target"]["num_hidden_layers"] == 1
    assert image["target"]["image_size"] == 16
    assert image["target"]["parameters"] < image["source"]["parameters"]
    assert text["target"]["hidden_size"] == 32
    assert text["target"]["num_hidden_layers"] == 4
    assert text["target"]["parameters"] > text["source"]["parameters"]
    assert text["method"] == "lemon"
    assert text["function_preserving"] is True
    assert text["max_abs_difference"] < 1e-4


def test_shows_tables(finished):
    output, results, shown = finished
    assert f"{results['text_model']['target']['parameters']:,}" in shown
    assert "test accuracy, mean and range of 2 seeds" in shown
    assert "learning_curves.png" in shown


def test_nothing_is_chosen_on_the_test_images(image_model, console, monkeypatch):
    calls = []

    def record(model, train, held_out, rate, steps, every, seed, advance):
        calls.append((len(train[1]), held_out[0], seed))
        # The last rate looks best; with the test images that would be another matter.
        return dict.fromkeys((0, steps), rate)

    monkeypatch.setattr(demo, "fine_tune", record)
    training = demo.compare_starts(image_model, 2, range(2), console)
    digits = demo.load_images(image_model, 16)
    tuning = len(demo.STARTS) * len(demo.LEARNING_RATES)
    assert all(torch.equal(held_out, digits.validation[0]) for _, held_out, _ in calls[:tuning])
    assert all(torch.equal(held_out, digits.test[0]) for _, held_out, _ in calls[tuning:])
    assert {size for size, _, _ in calls} == {len(digits.train[1])}
    assert [seed for _, _, seed in calls[tuning:]] == [0, 1, 0, 1]
    assert all(rates["chosen"] == max(demo.LEARNING_RATES) for rates in training["learning_rates"].values())


def test_digits_are_split_in_proportion(image_model):
    digits = demo.load_images(image_model, 16)
    parts = (digits.train, digits.validation, digits.test)
    assert all(pixels.shape == (len(labels), 3, 16, 16) for pixels, labels in parts)
    shares = torch.stack([labels.bincount(minlength=10) / len(labels) for _, labels in parts])
    assert (shares - 0.1).abs().max() < 0.02
    assert sum(len(labels) for _, labels in parts) == 1797
    again = demo.load_images(image_model, 16)
    assert torch.equal(again.test[0], digits.test[0])


def test_starts_differ_only_in_weights(image_model):
    resized, random = (demo.build_classifier(image_model, method, seed=0) for method in demo.STARTS.values())
    assert [(n, p.shape) for n, p in resized.named_parameters()] == [
        (n, p.shape) for n, p in random.named_parameters()
    ]
    name = "vit.layers.0.mlp.fc1.weight"
    assert not torch.equal(resized.state_dict()[name], random.state_dict()[name])


def test_same_seed_same_curve(image_model):
    digits = demo.load_images(image_model, 16)

    def curve(seed):
        model = demo.build_classifier(image_model, "auto", seed=0)
        demo.fine_tune(model, digits.train, digits.validation, 1e-3, 3, 1, seed, lambda: None)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(curve(0), curve(0))
    assert not torch.equal(curve(0), curve(1))


def test_learns(image_model):
    digits = demo.load_images(image_model, 16)
    model = demo.build_classifier(image_model, "random", seed=0)
    curve = demo.fine_tune(model, digits.train, digits.validation, 5e-3, 80, 40, 0, lambda: None)
    assert list(curve) == [0, 40, 80]
    assert curve[80] > 2 * demo.CHANCE


def test_batches_cover_every_example_once_an_epoch():
    batches = demo.shuffled_batches(70, seed=0)
    first = torch.cat([next(batches) for _ in range(3)])
    second = torch.cat([next(batches) for _ in range(3)])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(70))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("option", [{"steps": 0}, {"seeds": 0}])
def test_refuses_to_do_nothing(option, image_model, text_model, tmp_path):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        demo.run_demo(image_model, text_model, tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_leaves_the_verbosity_of_transformers_alone():
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with demo.quiet():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_sizes_of_odd_models():
    config = ViTForImageClassification.config_class(hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
    assert demo.small_sizes(config) == {"hidden_size": 8, "num_hidden_layers": 1, "image_size": 64}
