"""Taylor: prunes what changes the loss least (arXiv 1906.10771). A known ranking, for comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches
from hf_learngene.errors import CalibrationError
from hf_learngene.methods.base import Paper
from hf_learngene.methods.pruning_method import PruningMethod
from hf_learngene.methods.registry import register_method
from hf_learngene.pruning.criteria import Scores, sum_over_tensors
from hf_learngene.state import evaluating


@register_method
@dataclass(frozen=True)
class Taylor(PruningMethod):
    """Keeps what the loss would miss most, to first order: |weight x gradient|, summed over what is pruned together.

    It needs `calibration=` **with labels**, and a backward pass over it: the one method here that does.

    Source: paper, section 3.1 (first order), over groups as Torch-Pruning's `GroupTaylorImportance`.
    """

    name: ClassVar[str] = "taylor"
    paper: ClassVar[Paper | None] = Paper("Importance Estimation for Neural Network Pruning", "1906.10771")
    summary: ClassVar[str] = "what the loss would miss most, on labelled examples (calibration= with labels)"
    needs_examples: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def score(
        self, model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool = False
    ) -> Scores:
        products = weight_times_gradient(model, anatomy, examples, disable_progress)
        return sum_over_tensors(anatomy, lambda info: products[info.name])


@contextmanager
def _same_config(model: PreTrainedModel) -> Iterator[None]:
    """Takes back what a forward pass with labels notes in the config, the kind of problem that it found them to be."""
    before = getattr(model.config, "problem_type", None)
    try:
        yield
    finally:
        model.config.problem_type = before


def weight_times_gradient(
    model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool
) -> Mapping[str, Tensor]:
    """|weight x gradient of the mean loss| of every parameter."""
    parameters = dict(model.named_parameters())
    kept = {
        n: parameters[n].detach().to(torch.promote_types(parameters[n].dtype, torch.float32)).requires_grad_()
        for n in anatomy.tensors
        if n in parameters
    }
    sums = {n: torch.zeros_like(p) for n, p in kept.items()}
    dtype, device = next(iter(kept.values())).dtype, next(iter(kept.values())).device
    with torch.enable_grad(), evaluating(model), _same_config(model), torch.random.fork_rng(devices=[]):
        for number, batch in enumerate(tqdm(examples.batches(), desc="gradients", disable=disable_progress)):
            torch.default_generator.manual_seed(number)
            moved = {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in batch.items()}
            loss = functional_call(model, kept, kwargs=moved).get("loss")
            if loss is None:
                raise CalibrationError(
                    "taylor ranks by the gradient of the loss, and the model gives none: the examples have no labels, or the "
                    "model no head. method='minitron' needs neither."
                )
            share = len(next(iter(batch.values())))
            gradients = torch.autograd.grad(loss * share, list(kept.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total += gradient
    return {n: (kept[n].detach() * total).abs().double().cpu() for n, total in sums.items()}


__all__ = ["Taylor"]
