"""Passes over a model leave it, and the process, as they were: modes, autocast, gradients, random numbers, dtype, threads."""

from __future__ import annotations

import errno
import gc
import os
import warnings

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_learngene import allocate, errors, resize, verify
from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration import store
from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.store import Store
from hf_learngene.pruning.activations import Runner
from hf_learngene.pruning.running import run
from hf_learngene.state import evaluating


SIZES = {
    "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
METHODS = [
    ("calibrated", {"hidden_size": 8}),
    ("calibrated", {"intermediate_size": 12, "num_hidden_layers": 1}),
    ("minitron", {"hidden_size": 8}),
    ("shortgpt", {"num_hidden_layers": 1}),
    ("taylor", {"intermediate_size": 12}),
]


def vit(**extra):
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, num_labels=3, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5, **extra)
    model = ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pictures(count=64):
    generator = torch.Generator().manual_seed(1)
    return [{"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": i % 3} for i in range(count)]


def modes(model):
    return [m.training for m in model.modules()]


def in_training(model):
    """As a fine-tune with a frozen embedding leaves it: not all modules in one mode."""
    model.train()
    model.vit.embeddings.eval()
    return model


@pytest.mark.parametrize(("method", "sizes"), METHODS)
def test_a_model_in_train_mode_gives_what_it_gives_in_eval_mode(method, sizes):
    wanted = resize(vit().eval(), method=method, calibration=pictures(), **sizes)
    source = in_training(vit())
    before = modes(source)
    made = resize(source, method=method, calibration=pictures(), **sizes)
    assert modes(source) == before
    assert not any(modes(made))
    for a, b in zip(made.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_budget_is_measured_in_eval_mode():
    wanted = allocate(vit().eval(), 0.6, pictures())
    source = in_training(vit())
    before = modes(source)
    found = allocate(source, 0.6, pictures())
    assert modes(source) == before
    assert found.full == wanted.full
    assert [t.error for t in found.axes] == pytest.approx([t.error for t in wanted.axes], rel=1e-3)


def test_two_models_are_compared_in_eval_mode():
    source = in_training(vit())
    before = modes(source)
    assert verify(source, source).max_abs_logit_difference == 0
    assert modes(source) == before


def test_modes_come_back_after_an_error():
    source = in_training(vit())
    before = modes(source)
    with pytest.raises(errors.CalibrationError):
        run(source, {"pixel_values": torch.zeros(1, 3, 5, 5)})
    assert modes(source) == before
    with pytest.raises(errors.CalibrationError), evaluating(source):
        run(source, {"pixel_values": torch.zeros(1, 3, 5, 5)})
    assert modes(source) == before


@pytest.mark.parametrize(("method", "sizes"), METHODS)
def test_autocast_around_a_call_changes_nothing(method, sizes):
    wanted = resize(vit(), method=method, calibration=pictures(), **sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = resize(vit(), method=method, calibration=pictures(), **sizes)
        assert torch.is_autocast_enabled("cpu")
    for a, b in zip(made.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "sizes"), METHODS)
@pytest.mark.parametrize("gradients", [True, False])
def test_the_process_is_left_as_it_was(method, sizes, gradients):
    source, examples = vit(), pictures()
    torch.set_grad_enabled(gradients)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        resize(source, method=method, calibration=examples, **sizes)
        assert torch.is_grad_enabled() == gradients
    finally:
        torch.set_grad_enabled(True)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == threads


# ---- temporary folders


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The temporary folder, and everything kept in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(store, "SHARE", 0)
    return tmp_path


def test_no_temporary_folder_is_left(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Examples(pictures(), vit()) as examples:
            assert len(list(examples.batches())) == 2
            assert len(os.listdir(folder)) == 1
        assert not os.listdir(folder)
        resize(vit(), calibration=pictures(), intermediate_size=12)
        with pytest.raises(errors.CalibrationError, match="tokens"):
            resize(vit(), calibration=pictures(1), calibration_top_up=False, intermediate_size=12)
        gc.collect()
    assert not os.listdir(folder)


def test_a_runner_that_fails_leaves_no_folder(folder):
    source, kept = vit(), []

    def batches():
        yield from Examples(pictures(), source).batches()
        kept.extend(os.listdir(folder))
        raise KeyError

    with pytest.raises(KeyError), Runner(source, anatomy_of(source.config, type(source))) as runner:
        runner.cache_prefix(1, batches())
    gc.collect()
    assert kept
    assert not os.listdir(folder)


def test_a_full_disk_is_told(folder, monkeypatch):
    def full(value, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(errors.CalibrationError, match="No space left on device.*TMPDIR"):
        resize(vit(), calibration=pictures(), intermediate_size=12)
    monkeypatch.setattr("tempfile.tempdir", str(folder / "absent"))
    with pytest.raises(errors.CalibrationError, match="TMPDIR"):
        resize(vit(), calibration=pictures(), intermediate_size=12)


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_what_is_kept_is_given_back(memory):
    value = {"a": torch.arange(6.0).reshape(2, 3), "b": (torch.ones(2), [torch.zeros(1)])}
    with Store(memory) as kept:
        kept.put("one", value)
        kept.get("one")["a"].zero_()
        assert torch.equal(kept.get("one")["a"], value["a"])
        assert torch.equal(kept.get("one")["b"][0], value["b"][0])
        kept.put("one", torch.full((2,), 7.0))
        assert kept.get("one").tolist() == [7.0, 7.0]


# ---- passes that are shared


def calls_of(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_pass_that_keeps_what_is_ahead_saves_the_next_one():
    source = vit()
    anatomy, batches = anatomy_of(source.config, type(source)), list(Examples(pictures(), source).batches())
    names = [f"vit.layers.{i}.mlp.fc2" for i in range(2)]
    calls = calls_of(source.get_submodule("vit.layers.0"))
    with Runner(source, anatomy) as ahead:
        for number, batch in enumerate(batches):
            ahead.capture(number, batch, inputs=[names[0]], ahead=1)
        ahead.cache_prefix(1, batches)
        found = [ahead.capture(n, b, inputs=[names[1]]).inputs[names[1]][0] for n, b in enumerate(batches)]
    assert len(calls) == len(batches)
    with Runner(source, anatomy) as plain:
        for number, batch in enumerate(batches):
            torch.testing.assert_close(
                found[number], plain.capture(number, batch, inputs=[names[1]]).inputs[names[1]][0]
            )


def test_settled_modules_run_once_and_are_run_anew_in_the_next_layer():
    source = vit()
    anatomy, batches = anatomy_of(source.config, type(source)), list(Examples(pictures(), source).batches())
    first, second = (f"vit.layers.0.mlp.{n}" for n in ("fc1", "fc2"))
    calls = calls_of(source.get_submodule(first))
    with Runner(source, anatomy) as runner:
        wanted = runner.capture(0, batches[0], inputs=[second]).inputs[second][0]
        runner.settle(first)
        before = len(calls)
        for _ in range(3):
            torch.testing.assert_close(runner.capture(0, batches[0], inputs=[second]).inputs[second][0], wanted)
        assert len(calls) == before + 1


@pytest.mark.parametrize("names", [("q_proj", "k_proj", "v_proj"), ("v_proj", "q_proj")])
def test_modules_that_read_one_tensor_are_given_one(names):
    model = vit().eval()
    wanted = [f"vit.layers.0.attention.{name}" for name in names]
    batch = {"pixel_values": torch.stack([row["pixel_values"] for row in pictures(4)])}
    with Runner(model, anatomy_of(model.config, type(model))) as runner:
        found = runner.capture(0, batch, inputs=wanted).inputs
    assert all(found[name][0] is found[wanted[0]][0] for name in wanted)  # their products are summed up once
