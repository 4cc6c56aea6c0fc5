"""`resize --trainer-checkpoint`, as a person would use it: behind a Trainer's run."""

from __future__ import annotations

import pytest
import torch

from testing.training import plain_trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from transformers import Trainer

    folder = tmp_path_factory.mktemp("run")
    plain_trainer(Trainer, folder, max_steps=2).train()
    return folder / "checkpoint-2"


def test_a_checkpoint_grows_with_its_optimizer(run, checkpoint, tmp_path):
    options = ("--trainer-checkpoint", "--hidden-size", 48, "--option", "reset=copies", "--method", "lemon")
    done = run("resize", checkpoint, "grown/checkpoint-2", *options, "--option", "symmetry=equal")
    assert done.exit_code == 0, done.output
    assert 'resume_from_checkpoint="grown/checkpoint-2"' in done.output
    held = torch.load(tmp_path / "grown" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    widths = {size for state in held["state"].values() for size in state["exp_avg"].shape}
    assert 48 in widths
    assert 24 not in widths
    assert (run("resize", checkpoint, "grown/checkpoint-2", *options).exit_code) == 2  # it exists
    assert run("resize", checkpoint, "grown/checkpoint-2", *options, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trainer-checkpoint", "--params", "2M"), "takes larger sizes"),
        (("--trainer-checkpoint", "--hidden-size", 48, "--calibration", "none"), "takes larger sizes"),
        (("--trainer-checkpoint", "--hidden-size", 48, "--num-labels", 3), "takes larger sizes"),
        (("--trainer-checkpoint", "--num-hidden-layers", 1), "Only growth"),
        (("--trainer-checkpoint", "--hidden-size", 48, "--option", "reset=some"), "copies, all"),
    ],
)
def test_what_would_be_another_training_is_an_error_in_one_line(run, checkpoint, tmp_path, options, said):
    done = run("resize", checkpoint, "out", *options)
    assert (done.exit_code, said in " ".join(done.output.split())) == (2, True), done.output
    assert not any(tmp_path.iterdir())
