"""A small comparison, and a guard that none is run: shared by the tests of `compare`."""

from __future__ import annotations

import torch

from hf_learngene import compare
from hf_learngene.comparing import measuring, run
from hf_learngene.methods import WeightSelection
from testing.training import Images, teacher_of


TRAIN, EVAL = Images(32), Images(24)
SMALL = {"hidden_size": 16}
SETUP = {"steps": 3, "eval_steps": 2, "seeds": [0, 1], "batch_size": 8, "learning_rate": 1e-2}
FIRST = {"method": "weight_selection", "element_selection": "consecutive"}


def fine(prediction):
    """A metric that no two models share: accuracy on a few examples would hide a difference."""
    return {"score": float(prediction.predictions.std())}


FINE = {"compute_metrics": fine, "metric": "score"}


def small(folder, source=None, **given):
    """A comparison of one size by random init alone, unless told otherwise."""
    given = {"methods": ["random"], **SETUP, "seeds": [0], "steps": 2, **given}
    sizes, train, held = (given.pop(n, d) for n, d in (("sizes", [SMALL]), ("train", TRAIN), ("held", EVAL)))
    return compare(source or teacher_of("vit"), sizes, train, held, output_dir=folder, **given)


def whole(folder):
    methods = {"random": "random", "every": WeightSelection(), "first": FIRST, "lemon": "lemon"}
    return compare(teacher_of("vit"), [SMALL, {"num_hidden_layers": 4}], TRAIN, EVAL, methods=methods, output_dir=folder,
                   **SETUP, **FINE)  # fmt: skip


class Drawing(Images):
    """Images with noise that is drawn anew at each reading, as random crops are."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return {**example, "pixel_values": example["pixel_values"] + torch.randn(3, 12, 12)}


def forbid_training(monkeypatch):
    """From now on any training or measuring fails."""

    def stop(*args, **kwargs):
        raise AssertionError("something was trained or measured")

    monkeypatch.setattr(measuring, "Trainer", stop)
    monkeypatch.setattr(run, "resize", stop)
