"""LEMON's learning rates for a grown model: the peak of training from scratch, and a cosine that ends sooner."""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hf_learngene.errors import UnknownOptionError


# the paper's ViT: 130 epochs where training from scratch takes 300
HORIZON = 130 / 300


def lemon_steps(num_training_steps: int, horizon: float = HORIZON) -> int:
    """The number of steps that a grown model is trained for.

    Args:
        num_training_steps (`int`): what the large model would take from scratch.
        horizon (`float`, *optional*, defaults to 130/300): the share of them that is enough. 130/300 is the paper's
            ViT; its released BERT example takes 132,000 steps after a small model's 220,000.

    Returns:
        `int`: for `max_steps`.

    Raises:
        UnknownOptionError: a value outside its range, with the range.

    Example:
        >>> lemon_steps(300_000)
        130000
    """
    if num_training_steps < 1:
        raise UnknownOptionError(f"num_training_steps is 1 or more; it was {num_training_steps}.")
    if not 0 < horizon <= 1:
        raise UnknownOptionError(
            f"horizon lies above 0 and is at most 1 (no sooner than from scratch); it was {horizon}."
        )
    return max(1, round(num_training_steps * horizon))


def get_lemon_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    horizon: float = HORIZON,
    min_lr_rate: float = 0.01,
    last_epoch: int = -1,
) -> LambdaLR:
    """Learning rates for a model grown by `method="lemon"` ([2310.07999](https://arxiv.org/abs/2310.07999)).

    Warm-up and peak (the learning rate set in the optimizer) are those of training the large model from scratch; the
    cosine reaches its end after `lemon_steps(num_training_steps, horizon)` steps, and stays there.

    Args:
        optimizer (`torch.optim.Optimizer`): with the peak as its learning rate.
        num_warmup_steps (`int`): as from scratch.
        num_training_steps (`int`): what the large model would take from scratch, not what is trained here.
        horizon (`float`, *optional*, defaults to 130/300): the share of them after which the cosine has ended.
        min_lr_rate (`float`, *optional*, defaults to 0.01): the end, as a share of the peak. The released runs use
            about 0.01 for ViT, 0.1 for BERT.
        last_epoch (`int`, *optional*, defaults to -1): the step to resume from. `Trainer` sets it by itself.

    Returns:
        `torch.optim.lr_scheduler.LambdaLR`: for `Trainer(optimizers=(optimizer, schedule))`, or for a loop of one's own.

    Raises:
        UnknownOptionError: a value outside its range, with the range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters(), lr=1e-3)
        >>> schedule = get_lemon_schedule(optimizer, num_warmup_steps=5, num_training_steps=300)
        >>> rates = [(optimizer.step(), schedule.step(), schedule.get_last_lr()[0])[-1] for _ in range(lemon_steps(300))]
        >>> [f"{rates[step - 1]:.2g}" for step in (1, 5, 65, 130)]
        ['0.0002', '0.001', '0.00054', '1e-05']
    """
    steps = lemon_steps(num_training_steps, horizon)
    if not 0 <= num_warmup_steps < steps:
        raise UnknownOptionError(
            f"num_warmup_steps lies between 0 and the {steps} steps of the whole schedule; it was {num_warmup_steps}."
        )
    if not 0 <= min_lr_rate <= 1:
        raise UnknownOptionError(f"min_lr_rate lies between 0 and 1 (no decay); it was {min_lr_rate}.")
    factor = partial(_factor, warmup=num_warmup_steps, steps=steps, end=min_lr_rate)
    return LambdaLR(optimizer, factor, last_epoch)


def _factor(step: int, *, warmup: int, steps: int, end: float) -> float:
    """The learning rate of a step, as a share of the peak."""
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / (steps - warmup))
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))
