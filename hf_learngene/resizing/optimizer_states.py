"""Adam's moments carried through the passes of a growth, by the names of the parameters that they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.errors import TrainingStateError, nearest
from hf_learngene.maps.gradients import GradientRecipe
from hf_learngene.maps.recipe import TensorRecipe
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.plan import Plan


FIRST, SECOND = "exp_avg", ("exp_avg_sq", "max_exp_avg_sq")  # the last with `amsgrad`
KNOWN = {"step", FIRST, *SECOND}
RESETS = ("copies", "all")
AGAIN = "Grow the weights alone, hf_learngene.resize, and begin with a new optimizer and a warm-up."


@dataclass(frozen=True)
class OptimizerStates:
    """What an optimizer of Adam's kind holds, by parameter name.

    Attributes:
        states: parameter name -> `step`, `exp_avg`, `exp_avg_sq` and, with `amsgrad`, `max_exp_avg_sq`. A parameter that never
            had a gradient has none.
        groups: what the optimizer's parameter groups say beside their parameters.
        names: the parameters of each group, in the optimizer's order.
    """

    states: Mapping[str, Mapping[str, Any]]
    groups: Sequence[Mapping[str, Any]]
    names: Sequence[Sequence[str]]

    @classmethod
    def of(
        cls, state_dict: Mapping[str, Any], names: Sequence[Sequence[str]], model: PreTrainedModel
    ) -> OptimizerStates:
        """The states of an optimizer's `state_dict`, whose groups hold the parameters of `names`.

        Raises:
            TrainingStateError: states of another kind than Adam's, or of other parameters.
        """
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        groups = [{k: v for k, v in group.items() if k != "params"} for group in state_dict["param_groups"]]
        numbers = [i for group in state_dict["param_groups"] for i in group["params"]]
        states = {}
        for number, name in zip(numbers, (n for group in names for n in group), strict=True):
            state = state_dict["state"].get(number)
            if state is None or not len(state):
                continue
            state = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in state.items()}
            if not {FIRST, SECOND[0], "step"} <= state.keys() <= KNOWN:
                raise TrainingStateError(
                    f"The optimizer holds {', '.join(sorted(map(str, state)))} of each parameter. What Adam and AdamW hold "
                    f"follows a growth (step, {FIRST}, {SECOND[0]}); nothing else does. {AGAIN}"
                )
            unlike = next((k for k, v in state.items() if k != "step" and tuple(v.shape) != shapes[name]), None)
            if unlike is not None:
                raise TrainingStateError(
                    f"`{unlike}` of `{name}` has shape {tuple(state[unlike].shape)}, and the parameter {shapes[name]}: the "
                    f"states are of another model, sharded or packed. {AGAIN}"
                )
            states[name] = state
        return cls(states, groups, names)

    def in_order_of(self, model: PreTrainedModel) -> OptimizerStates:
        """The same with the parameters of each group in the model's order."""
        order = {name: i for i, (name, _) in enumerate(model.named_parameters())}
        return dataclasses.replace(self, names=[sorted(group, key=order.__getitem__) for group in self.names])

    def state_dict(self) -> dict[str, Any]:
        """The same as `torch.optim.Optimizer.load_state_dict` takes it."""
        number = {name: i for i, name in enumerate(n for group in self.names for n in group)}
        groups: list[dict[str, Any]] = []
        for told, names in zip(self.groups, self.names, strict=True):
            named = {"param_names": list(names)} if "param_names" in told else {}
            groups.append({**told, **named, "params": [number[name] for name in names]})
        return {"state": {number[name]: state for name, state in self.states.items()}, "param_groups": groups}


class FollowingStates:
    """Optimizer states on their way through the passes of a resize.

    Args:
        states: of the source.
        reset: as in `resize_with_optimizer`.
        frozen: parameters of the source that are not trained; those made of them are not either.
    """

    def __init__(self, states: OptimizerStates, reset: str | None, frozen: Iterable[str] = ()) -> None:
        self.states, self.reset, self.frozen = states, reset, frozenset(frozen)

    def __call__(self, step: Pass, source: PreTrainedModel) -> None:
        self.states = _carried(self.states, step, self.reset)
        self.frozen = frozenset(r.name for r in step.recipes if r.sources and r.sources[0][0] in self.frozen)


def check_reset(reset: str | None) -> None:
    """Refuses what `reset` cannot be."""
    if reset is not None and reset not in RESETS:
        raise TrainingStateError(
            f"reset is one of {', '.join(RESETS)}, or None; it was {reset!r}.{nearest(str(reset), RESETS)}"
        )


def check_keeps_training(plan: Plan) -> None:
    """Refuses a resize after which a training cannot go on as it was, before any weight is read.

    Raises:
        TrainingStateError: it shrinks, is not exact, starts parameters anew, or no map of gradients is known for one of its ops.
    """
    for step in plan.passes:
        if not (step.method.lossless and step.method.exact):
            raise TrainingStateError(
                f"method={step.method.name!r} makes another function of the model, at whose weights no gradient was ever taken. "
                "Only growth that keeps the function keeps the optimizer's moments (method='lemon' or 'hyperclone', with "
                f"larger sizes alone). {AGAIN}"
            )
        _followers(step)


class _Follower(NamedTuple):
    """One target tensor.

    Attributes:
        recipe: how it is made.
        gradient: how its gradient is; None in an inserted layer, where nobody asks.
        inserted: whether it is of such a layer.
    """

    recipe: TensorRecipe
    gradient: GradientRecipe | None
    inserted: bool


def _followers(step: Pass) -> list[_Follower]:
    """How each tensor of a pass is made, and its gradient."""
    found = []
    for recipe in step.recipes:
        tensor = step.task.target.tensors[recipe.name]
        inserted = tensor.layer is not None and step.task.of(tensor).layer_map[tensor.layer].inserted
        gradient = GradientRecipe.of(recipe, step.method.reads_first_copy(tensor, step.task))
        if gradient is None and not (inserted and recipe.sources):
            raise TrainingStateError(
                f"The moments of `{recipe.name}` do not follow what is done to it ({recipe.origin}). Widths, depth and "
                f"longer tables of positions keep a training. {AGAIN}"
            )
        found.append(_Follower(recipe, gradient, inserted))
    return found


def _carried(states: OptimizerStates, step: Pass, reset: str | None) -> OptimizerStates:
    group_of = {name: i for i, names in enumerate(states.names) for name in names}
    names: list[list[str]] = [[] for _ in states.names]
    followers = _followers(step)
    for recipe, _, _ in followers:
        source = recipe.sources[0][0]
        if source in group_of:  # others are frozen
            names[group_of[source]].append(recipe.name)
    heirs = _heirs(followers) if reset != "all" else {}
    made = {
        gradient.recipe.name: _moments(gradient, states.states[source], reset)
        for source, gradient in heirs.items()
        if source in states.states
    }
    return OptimizerStates(made, states.groups, names)


def _heirs(followers: Sequence[_Follower]) -> dict[str, GradientRecipe]:
    """Source tensor -> the target tensor that has its gradient: of copies of a layer, the one that is not inserted.

    An inserted layer starts as the identity. Its gradients are zero, or of a kind that the source's do not tell. But where the
    norm before it lost its affine part, the inserted layer's last norm has it, and its gradient.
    """
    found: dict[str, _Follower] = {}
    for follower in followers:
        if follower.gradient is None or follower.gradient.starts_anew:
            continue
        before = found.get(follower.gradient.source)
        if before is None or before.inserted:
            found[follower.gradient.source] = follower
    return {source: follower.gradient for source, follower in found.items() if follower.gradient is not None}


@torch.no_grad()
def _moments(recipe: GradientRecipe, state: Mapping[str, Any], reset: str | None) -> dict[str, Any]:
    """The moments of one target tensor; zero where it has something new, or a copy that is to start anew."""
    made = {"step": state["step"].clone() if isinstance(state["step"], Tensor) else state["step"]}
    for name in (FIRST, *SECOND):
        if name in state:
            made[name] = recipe(state[name]) if name == FIRST else recipe.squared(state[name])
            if reset == "copies":
                made[name] *= recipe.of_originals(state[name])
    return made


__all__ = ["FollowingStates", "OptimizerStates", "check_keeps_training", "check_reset"]
