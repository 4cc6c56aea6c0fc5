"""Which units of merged layers are worth a close look: those that move the residual stream most, each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.calibration.few import ENOUGH, few
from hf_learngene.calibration.shares import total
from hf_learngene.calibration.store import tensors_in
from hf_learngene.pruning.running import run


EXAMPLES = 32  # that are looked at, at most
LOOKED_AT = 1 / 3  # of the units that leave


def unit_variances(model: PreTrainedModel, modules: Sequence[str], examples: Batches) -> dict[str, Tensor]:
    """The variance of what each of these modules reads, (inputs,), float64, on a few of the examples."""
    counts = dict.fromkeys(modules, 0)
    widths = {name: model.get_parameter(f"{name}.weight").shape[1] for name in modules}
    sums = {n: torch.zeros(2, width, dtype=torch.float64, device=model.device) for n, width in widths.items()}
    for batch in few(examples, model, EXAMPLES, ENOUGH):
        shown = tokens_shown(batch)
        with ExitStack() as stack:
            for name in modules:

                def hook(module: nn.Module, args: Any, kwargs: Any, name: str = name, shown: Any = shown) -> None:
                    rows = rows_of(next(tensors_in((args, kwargs))), shown).double()
                    counts[name] += len(rows)
                    sums[name] += torch.stack([rows.sum(0), rows.pow(2).sum(0)])

                handle = model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            run(model, batch)
    found = {}
    for name in modules:
        mean, square = total(sums[name]) / int(total(torch.tensor(counts[name])))
        found[name] = square - mean.pow(2)
    return found


def candidates(variance: Tensor, weight: Tensor, keep: int) -> Tensor:
    """Indices of the units among which `keep` are chosen: as many, and a third of the others, by how far each moves the stream.

    What optimal brain surgeon takes grows with the third power of the units that it is shown, and what a unit does by itself
    tells most of those that it would prune first.

    Args:
        variance: of each unit, (units,).
        weight: the matrix that reads them, (outputs, units).
        keep: how many will stay.

    Example:
        >>> candidates(torch.tensor([1.0, 4.0, 9.0, 2.0]), torch.ones(2, 4), keep=1).tolist()
        [1, 2]
    """
    units = len(variance)
    shown = keep + round(LOOKED_AT * (units - keep))
    moved = variance * weight.to(variance).pow(2).sum(0)
    return moved.argsort(descending=True, stable=True)[:shown].sort().values


__all__ = ["candidates", "unit_variances"]
