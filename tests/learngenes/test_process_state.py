"""Building, loading and initialising learngenes leaves what belongs to the process as it was."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
from transformers.utils import logging

from hf_learngene import AutoLearngene
from testing.families import inputs_for, tiny_model
from testing.learngenes import OPTIONS


pytestmark = pytest.mark.not_numeric


KINDS = sorted(OPTIONS)


@pytest.fixture
def source():
    # its class and patch tokens are drawn by the constructor, past torch.nn.init
    return tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)


def state():
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "init": torch.nn.init.normal_,
        "register": torch.nn.Module.register_parameter,
        "verbosity": logging.get_verbosity(),
        "bars": logging.is_progress_bar_enabled(),
    }


def leaves_all(act):
    for setting in (lambda: torch.manual_seed(3), lambda: random.seed(4), lambda: np.random.seed(5)):
        setting()
    before = state()
    made = act()
    after = state()
    assert {n for n in before if before[n] != after[n]} == set()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_around_it_rounds_nothing(kind, source):
    learngene = AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind])
    plain = learngene.initialize(num_hidden_layers=4).state_dict()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = learngene.initialize(num_hidden_layers=4).state_dict()
        assert torch.is_autocast_enabled("cpu")
    assert all(torch.equal(value, made[name]) for name, value in plain.items())


@pytest.mark.parametrize("kind", KINDS)
def test_no_verb_touches_it(kind, source, tmp_path):
    learngene = leaves_all(lambda: AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind]))
    leaves_all(lambda: AutoLearngene.from_ancestry(source, kind, num_hidden_layers=5, **OPTIONS[kind]))
    leaves_all(lambda: learngene.initialize(num_hidden_layers=4))
    leaves_all(lambda: learngene.initialize(num_hidden_layers=4, num_labels=7))
    leaves_all(lambda: learngene(**inputs_for(source)))
    leaves_all(lambda: learngene.save_pretrained(tmp_path))
    leaves_all(lambda: AutoLearngene.from_pretrained(tmp_path))
    leaves_all(lambda: type(learngene).from_pretrained(tmp_path))
    if kind in ("fine", "wave"):
        leaves_all(lambda: learngene.for_size(num_hidden_layers=4))


@pytest.mark.parametrize("kind", ["fine", "wave"])
def test_training_and_measuring_inside_a_verb_does_not_either(kind, source):
    learngene = AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind])
    data = [{"pixel_values": inputs_for(source)["pixel_values"][0], "labels": i % 2} for i in range(4)]
    leaves_all(lambda: learngene.adapt(data, steps=1, num_hidden_layers=2, seed=9, disable_tqdm=True))
    leaves_all(lambda: learngene.validate(data, [{}], dataset="none", disable_tqdm=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_says_what_is_drawn(kind, source):
    made = []
    for callers, seed in ((0, 1), (1, 1)):
        torch.manual_seed(callers)
        made.append(AutoLearngene.from_ancestry(source, kind, seed=seed, **OPTIONS[kind]).state_dict())
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_learngene_follows_the_callers_generator(kind, source):
    config = AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind]).config
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(AutoLearngene.from_config(config).state_dict())
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())
    assert any(not torch.equal(tensor, made[2][name]) for name, tensor in made[0].items())


def test_two_threads_do_not_leave_torch_patched(source):
    before = torch.nn.init.normal_, torch.nn.Module.register_parameter
    first, second = (AutoLearngene.from_ancestry(source, "tleg") for _ in range(2))
    first_is_inside, second_is_inside, first_is_done = (threading.Event() for _ in range(3))

    def build(learngene, says, waits_for, done=None):
        base_class = learngene.base_class

        def constructed(config):
            says.set()
            waits_for.wait(timeout=0.5)  # the other comes in vain where it is kept out, and this one goes on
            return base_class(config)

        learngene.base_class = constructed
        learngene.skeleton(learngene.target())
        if done is not None:
            done.set()

    # first in and first out: each would put back what it found, and the second found the first's
    threads = [
        threading.Thread(target=build, args=(first, first_is_inside, second_is_inside, first_is_done)),
        threading.Thread(target=build, args=(second, second_is_inside, first_is_done)),
    ]
    threads[0].start()
    assert first_is_inside.wait(timeout=60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert (torch.nn.init.normal_, torch.nn.Module.register_parameter) == before
    assert float(torch.nn.init.normal_(torch.zeros(8)).abs().max()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_in_inference_mode_can_be_trained(kind, source):
    with torch.inference_mode():
        learngene = AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind])
        model = learngene.initialize(num_hidden_layers=2)
    for made in (learngene, model):
        made(**inputs_for(source)).logits.sum().backward()
