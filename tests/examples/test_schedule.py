"""One keyword of the example scripts is LEMON's schedule."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from hf_learngene.training import get_lemon_schedule, lemon_steps
from testing.families import load_example


def rates(make):
    """The learning rates of 15 steps."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule, found = make(optimizer), []
    for _ in range(15):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("script", ["run_image_classification_resized", "run_text_classification_resized"])
def test_one_keyword_is_the_schedule_of_lemon(script, tmp_path):
    data = tmp_path / "train.jsonl"
    data.touch()
    argv = [f"--model_name_or_path={tmp_path}", f"--train_file={data}", f"--output_dir={tmp_path}", "--do_train"]
    argv += ["--use_cpu=true", "--warmup_steps=3", "--steps_from_scratch=30"]
    _, _, args = load_example(script).parse_arguments(argv)
    assert args.max_steps == lemon_steps(30) == 13

    def of_the_script(optimizer):
        return get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=args.get_warmup_steps(args.max_steps),
            num_training_steps=args.max_steps,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs),
        )

    wanted = rates(lambda optimizer: get_lemon_schedule(optimizer, num_warmup_steps=3, num_training_steps=30))
    assert rates(of_the_script)[:13] == pytest.approx(wanted[:13])
    with pytest.raises(ValueError, match="leave --max_steps out"):
        load_example(script).parse_arguments([*argv, "--max_steps=4"])
