"""A model and its optimizer grown together in the middle of a training."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any, TypeVar, cast

from torch.optim import Optimizer
from transformers import PreTrainedModel

from hf_learngene.errors import TrainingStateError
from hf_learngene.hub import provenance
from hf_learngene.methods import Method
from hf_learngene.resizing.calibrating import carry_out
from hf_learngene.resizing.execute import check_source
from hf_learngene.resizing.optimizer_states import (
    FollowingStates,
    OptimizerStates,
    check_keeps_training,
    check_reset,
)
from hf_learngene.resizing.plan import make_plan
from hf_learngene.resizing.spec import ResizeSpec


Model = TypeVar("Model", bound=PreTrainedModel)
Optim = TypeVar("Optim", bound=Optimizer)


def resize_with_optimizer(
    model: Model,
    optimizer: Optim,
    *,
    method: str | Method = "auto",
    seed: int = 0,
    reset: str | None = None,
    **sizes_and_options: Any,
) -> tuple[Model, Optim]:
    """A larger model and its optimizer, for a training loop that goes on. Both sources are left as they are.

    The moments of Adam are taken over by the map that belongs to gradients: where the weights of two copies add up, each has the
    whole gradient, and where a unit was copied, each copy has its share. New entries of a tensor start with zero moments, at the
    tensor's step; an inserted layer has no moments, and counts its steps from 0.

    Args:
        model (`PreTrainedModel`): as in `resize`.
        optimizer (`torch.optim.Optimizer`): an Adam, AdamW or RAdam of the model's parameters, in any groups, some of them
            frozen; or what accelerate made of one.
        method (`str` or `Method`, *optional*, defaults to `"auto"`): one that grows without loss: `lemon` or `hyperclone`.
        seed (`int`, *optional*, defaults to 0): as in `resize`.
        reset (`str`, *optional*): which moments start anew: `"copies"` those of all copies but the first, so that copies diverge
            sooner (SPARKLING, arXiv 2602.02472); `"all"` all of them; None none.
        **sizes_and_options: larger sizes, and options of the method.

    Returns:
        The grown model, in training mode if its source is, and an optimizer of the same class for it. A scheduler holds its
        optimizer: make one for the new, and load the old one's `state_dict()`.

    Raises:
        TrainingStateError: a resize that changes the function, an optimizer of another kind, or one of another model.
        LearngeneError: what `resize` refuses.

    Example:
        >>> import torch, transformers
        >>> config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
        >>> bert = transformers.BertForSequenceClassification(config)
        >>> optimizer = torch.optim.AdamW(bert.parameters(), lr=1e-3)
        >>> bert(input_ids=torch.arange(8)[None], labels=torch.tensor([1])).loss.backward()
        >>> optimizer.step()
        >>> grown, grown_optimizer = resize_with_optimizer(bert, optimizer, hidden_size=32)
        >>> grown_optimizer.state[grown.classifier.weight]["exp_avg"].shape
        torch.Size([2, 32])
    """
    check_reset(reset)
    source = check_source(model)
    provenance.check(source.config)
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    name_of = {id(p): name for name, p in source.named_parameters()}
    names = [[name_of.get(id(p), "") for p in group["params"]] for group in inner.param_groups]
    if not all(name for group in names for name in group):
        raise TrainingStateError(
            "The optimizer has parameters that the model has not. Give both as they are trained: the model that the optimizer "
            "was made for, unwrapped (accelerator.unwrap_model(model))."
        )
    states = OptimizerStates.of(inner.state_dict(), names, source)
    spec = ResizeSpec.parse(sizes_and_options, method=method, seed=seed)
    plan = make_plan(source.config, type(source), spec)
    check_keeps_training(plan)
    following = FollowingStates(states, reset, (n for n, p in source.named_parameters() if not p.requires_grad))
    grown = carry_out(plan, source, source=source.config._name_or_path or None, follow=following)
    for name, parameter in grown.named_parameters():
        parameter.requires_grad_(name not in following.frozen)
    return cast(Model, grown.train(model.training)), _for(grown, inner, following.states)


def _for(grown: PreTrainedModel, optimizer: Optimizer, states: OptimizerStates) -> Any:
    """An optimizer of the same class and settings, with the states of the grown model."""
    states = states.in_order_of(grown)
    parameters = dict(grown.named_parameters())
    made = copy.copy(optimizer)  # as it is pickled: its settings, whatever arguments its class takes
    made.state = defaultdict(dict)
    made.param_groups = [
        {**told, "params": [parameters[name] for name in names]}
        for told, names in zip(states.groups, states.names, strict=True)
    ]
    made.load_state_dict(states.state_dict())
    return made


__all__ = ["resize_with_optimizer"]
