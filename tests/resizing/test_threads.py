"""Threads side by side: what a process shares is as it was, and each gets what it would get alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import torch
import transformers
from torch import nn
from transformers.utils import logging

from hf_learngene import plan, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.probe import build
from testing.families import tiny_config, tiny_model


CASES = [
    ("vit", "ViTForImageClassification", {"hidden_size": 16, "num_labels": 7}),
    ("bert", "BertForSequenceClassification", {"num_hidden_layers": 2, "num_labels": 3}),
    ("modernbert", "ModernBertForMaskedLM", {"hidden_size": 48}),
    ("longformer", "LongformerForMaskedLM", {"num_hidden_layers": 4, "method": "random"}),
    ("deberta", "DebertaModel", {"intermediate_size": 80}),
    ("dinov2", "Dinov2ForImageClassification", {"hidden_size": 32, "num_labels": 2}),
]


def test_threads_get_what_one_alone_gets():
    models = [tiny_model(kind, name, dtype=torch.float32) for kind, name, _ in CASES]
    wishes = [wish for _, _, wish in CASES]
    alone = [(str(plan(m, **wish)), resize(m, **wish)) for m, wish in zip(models, wishes, strict=True)]
    random_state, verbosity, init = torch.get_rng_state(), logging.get_verbosity(), torch.nn.init.normal_
    start = Barrier(len(CASES))

    def both(model, wish):
        start.wait()
        return str(plan(model, **wish)), resize(model, **wish)

    for _ in range(2):
        with ThreadPoolExecutor(len(CASES)) as pool:
            together = list(pool.map(both, models, wishes))
        for (table, wanted), (other_table, made) in zip(alone, together, strict=True):
            assert other_table == table
            for (name, a), b in zip(wanted.state_dict().items(), made.state_dict().values(), strict=True):
                assert torch.equal(a, b), name
    assert torch.equal(torch.get_rng_state(), random_state)
    assert logging.get_verbosity() == verbosity
    assert torch.nn.init.normal_ is init
    assert torch.nn.init.normal_(torch.zeros(64)).std() > 0.1


def test_a_model_that_another_thread_builds_meanwhile_is_initialised():
    """Building for an anatomy patches nothing: what other people's threads do is none of this package's lock."""
    inside, done = Event(), Event()

    class Slow(nn.Linear):
        def reset_parameters(self):
            inside.set()
            done.wait(30)
            super().reset_parameters()

    class Model(transformers.ViTModel):
        def __init__(self, config):
            super().__init__(config)
            self.extra = Slow(4, 4)

    config = tiny_config("vit", "pixel_values")
    thread = Thread(target=build, args=(Model, config, "cpu"))
    thread.start()
    assert inside.wait(30)
    torch.full((4096,), float("nan"))  # freed memory is dirty
    layer, model = nn.Linear(300, 300), transformers.ViTModel(config)
    done.set()
    thread.join()
    assert 0 < layer.weight.std() < 1
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert 0 < model.layers[0].attention.q_proj.weight.std() < 1


def test_a_model_is_built_without_drawing_or_writing():
    config = tiny_config("longformer")
    before, state = config.to_dict(), torch.get_rng_state()
    model = build(transformers.LongformerModel, config, "cpu")
    anatomy_of(config, transformers.LongformerModel)
    assert config.to_dict() == before  # its constructor makes a list of attention_window
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
