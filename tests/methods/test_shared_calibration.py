"""Processes that share calibration examples end with the model of one process. They are threads here, which start at once."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEModel,
)

from hf_learngene import errors, resize
from hf_learngene.calibration import shares
from hf_learngene.calibration.examples import Examples
from hf_learngene.pruning.moments import Moments


SIZES = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}


class Processes:
    """Threads in the place of processes: what Accelerate does between them, they do here."""

    _shared_state = True
    device = torch.device("cpu")

    def __init__(self, count: int) -> None:
        self.num_processes, self.given = count, {}
        self.own, self.barrier = threading.local(), threading.Barrier(count, timeout=60)

    def __call__(self) -> Processes:
        return self

    @property
    def process_index(self) -> int:
        return self.own.index

    def exchanged(self, value):
        self.given[self.process_index] = value
        self.barrier.wait()
        found = [self.given[i] for i in range(self.num_processes)]
        self.barrier.wait()
        return found

    def run(self, work):
        def started(index):
            self.own.index = index
            try:
                return work()
            except Exception:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.num_processes) as pool:
            return list(pool.map(started, range(self.num_processes)))


def made(given, model):
    """Examples whose batches are made: threads that share them would make them all at once."""
    examples = Examples(given, model)
    assert examples.num_batches
    return examples


@pytest.fixture
def processes(monkeypatch):
    def started(count: int) -> Processes:
        made = Processes(count)
        monkeypatch.setattr(shares, "PartialState", made)
        monkeypatch.setattr(shares, "reduce", lambda value, how: sum(made.exchanged(value)))
        monkeypatch.setattr(shares, "broadcast", lambda value: made.exchanged(value)[0].clone())
        monkeypatch.setattr(shares, "broadcast_object_list", lambda values: made.exchanged(values)[0])
        return made

    return started


def model_of(kind: str):
    torch.manual_seed(0)
    if kind == "vit":
        made = ViTForImageClassification(ViTConfig(**SIZES, image_size=16, patch_size=8))
    elif kind == "mae":
        made = ViTMAEModel(ViTMAEConfig(**SIZES, image_size=16, patch_size=4))
    else:
        made = BertForSequenceClassification(BertConfig(**SIZES, vocab_size=60, max_position_embeddings=24))
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.double().eval()


def examples_of(kind: str, count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    if kind != "bert":
        images = torch.randn(count, 3, 16, 16, dtype=torch.float64, generator=generator)
        return [{"pixel_values": image} for image in images]
    lengths = torch.randint(6, 20, (count,), generator=generator).tolist()
    return [{"input_ids": torch.randint(5, 60, (n,), generator=generator)} for n in lengths]


@pytest.mark.parametrize(
    ("kind", "count", "sizes", "number"),
    [
        ("vit", 80, {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 24}, 2),
        ("vit", 80, {"num_hidden_layers": 2}, 2),
        ("bert", 80, {"hidden_size": 12, "intermediate_size": 24, "num_attention_heads": 2}, 2),
        ("mae", 80, {"intermediate_size": 24}, 2),  # what is drawn for a batch is the same in every process
        ("bert", 80, {"num_hidden_layers": 2}, 5),  # more processes than batches: each has its examples of every batch
        (
            "bert",
            24,
            {"intermediate_size": 24, "calibration_top_up": True},
            2,
        ),  # of those given each counts several times
    ],
)
def test_processes_give_the_model_of_one(processes, kind, count, sizes, number):
    model, examples = model_of(kind), examples_of(kind, count)
    options = {"calibration": examples, "calibration_top_up": False, **sizes}
    alone = resize(copy.deepcopy(model), **options)
    models = [copy.deepcopy(model) for _ in range(number)]
    running = processes(number)
    seen = [0] * number

    def work():
        index = running.process_index
        models[index].register_forward_hook(lambda *_: seen.__setitem__(index, seen[index] + 1))
        return resize(models[index], **options)

    made = running.run(work)
    for one in made:
        agreed, wanted = (m.config.learngene["calibration"].pop("agreement") for m in (one, copy.deepcopy(alone)))
        assert agreed == {**wanted, "value": pytest.approx(wanted["value"], abs=1e-10)}
        alike = copy.deepcopy(alone).config.learngene
        alike["calibration"].pop("agreement")
        assert one.config.learngene == alike
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=0, atol=1e-10, msg=name)
            assert torch.equal(value, made[0].state_dict()[name])
    assert all(seen)


def test_a_share_is_a_part_of_the_whole_and_all_shares_are_the_whole(processes):
    for number in (2, 5):
        running = processes(number)
        with made(examples_of("bert", 80), model_of("bert")) as examples:
            wanted = [row.tolist() for batch in examples.batches() for row in batch["input_ids"]]

            def work(examples=examples):
                with shares.shared(examples) as mine:
                    assert mine.num_batches == examples.num_batches
                    assert shares.whole(mine) is examples
                    return [row.tolist() for batch in mine.batches() for row in batch["input_ids"]]

            found = running.run(work)
        assert sorted(map(len, found))[0] > 0
        assert sorted(row for part in found for row in part) == sorted(wanted)


def test_sums_of_processes_are_those_of_all_tokens_wherever_each_began(processes):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, dtype=torch.float64, generator=generator) * 2 + torch.arange(300)[:, None] / 30
    y = x[:, :3] + torch.randn(300, 3, dtype=torch.float64, generator=generator)
    whole = Moments()
    for process in range(3):
        whole.add(*(v[100 * process : 100 * (process + 1)] for v in (x, y)), times=1 + process)
    running = processes(3)
    with made(examples_of("vit", 70), model_of("vit")) as examples:

        def work():
            with shares.shared(examples):
                sums = Moments()
                places = slice(100 * running.process_index, 100 * (running.process_index + 1))
                sums.add(x[places], y[places], times=1 + running.process_index)
                found = sums.gram, sums.count, sums.spread(), *sums.solve(torch.zeros(3, 5), True)
                with pytest.raises(TypeError, match="all processes"):
                    sums.add(x, y)
                return found

        for found in running.run(work):
            wanted = whole.gram, whole.count, whole.spread(), *whole.solve(torch.zeros(3, 5), True)
            torch.testing.assert_close(found, wanted)


def test_a_process_without_tokens_is_refused_in_all_of_them(processes):
    running = processes(2)
    with made(examples_of("vit", 40), model_of("vit")) as examples:

        def work():
            with shares.shared(examples):
                sums = Moments()
                if running.process_index:
                    sums.add(torch.ones(4, 2))
                with pytest.raises(errors.CalibrationError, match="2 processes 1 have no token"):
                    sums.count  # noqa: B018
                return True

        assert running.run(work) == [True, True]


def test_fewer_examples_than_processes_are_not_shared(processes):
    running = processes(4)
    with made(examples_of("vit", 3), model_of("vit")) as examples:

        def work():
            with shares.shared(examples) as mine:
                return mine is examples and not shares.is_shared()

        assert running.run(work) == [True] * 4
