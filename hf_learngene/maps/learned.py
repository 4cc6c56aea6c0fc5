"""Learned growth: which tensors of a growth a trained map can make, and the operator that makes them.

A growth's recipes say where such an operator starts. What of them is linear in the source's tensors becomes matrices that the
learned parameters move, all of which begin at zero; what is not (noise, new entries) is added as it stands.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from hf_learngene.anatomy import TensorInfo
from hf_learngene.maps.linear import linear
from hf_learngene.maps.ops import Blocks, Context, Fill, Op
from hf_learngene.maps.recipe import TensorRecipe, compute_dtype
from hf_learngene.maps.task import ResizeTask
from hf_learngene.state import without_autocast


@dataclass(frozen=True, eq=False)
class GrownWidth:
    """One width of a tensor, as the growth that an operator starts from makes it.

    Attributes:
        dim: the dimension.
        axis: what it counts, with its stage in a hierarchy.
        side: as in `Dim`.
        old, new: its size, all fused parts together.
        op: the linear part of what is done to it.
        index: (target size of a part,) source entry of each target entry, -1 for a new one.
        blocks: how it is fused.
    """

    dim: int
    axis: str
    side: str
    old: int
    new: int
    op: Any
    index: Tensor
    blocks: Blocks

    @cached_property
    def fresh(self) -> Tensor:
        """Places of a part that are not the first to hold their source entry: what the growth adds."""
        seen: set[int] = {-1}
        places = []
        for place, entry in enumerate(self.index.tolist()):
            if entry in seen:
                places.append(place)
            seen.add(entry)
        return torch.tensor(places, dtype=torch.int64)

    @cached_property
    def copies(self) -> Tensor:
        """(source size of a part,) how many target entries hold each source entry."""
        return torch.bincount(self.index[self.index >= 0], minlength=self.old // self.blocks.parts).clamp_min(1)

    def places(self, target: bool) -> Tensor:
        """(parts, size of a part): where the entries of each part stand in the whole width."""
        flat, parts = torch.arange(self.new if target else self.old), self.blocks.parts
        if self.blocks.by_head:
            return flat.reshape(self.blocks.heads[target], parts, -1).transpose(0, 1).reshape(parts, -1)
        return flat.reshape(parts, -1)

    def start(self, context: Context) -> Tensor:
        """(target, source) matrix of the growth along this width, float64."""
        op = dataclasses.replace(self.op, blocks=dataclasses.replace(self.blocks, dim=0))
        made: Tensor = op(torch.eye(self.old, dtype=torch.float64), context)
        return made


@dataclass(frozen=True, eq=False)
class TensorGrowth:
    """A target tensor that a learned map can make.

    Attributes:
        info: the target tensor.
        source: name of the source tensor that the growth makes it of, `layer` that tensor's layer.
        widths: those that grow.
        others: what else is done to the source tensor, such as a resampled position table.
        filled: whether the growth starts it at a constant, as it does what a new layer writes.
    """

    info: TensorInfo
    source: str
    layer: int | None
    widths: tuple[GrownWidth, ...]
    others: tuple[Op, ...]
    filled: bool

    @classmethod
    def of(cls, recipe: TensorRecipe, task: ResizeTask) -> Self | None:
        """The growth of a recipe; None where the tensor starts anew, or is made by what is not linear along one width."""
        info = task.target.tensors[recipe.name]
        part = task.of(info)
        inside = part.target.tensors[recipe.name]
        if len(recipe.sources) != 1 or inside.groups > 1:
            return None
        changes = {change.dim: change for change in part.width_changes(inside)}
        before = task.source.tensors[recipe.sources[0][0]]
        widths, others, filled = list[GrownWidth](), list[Op](), False
        for op in recipe.ops:
            linear_part = linear(op)
            if linear_part is None:
                return None
            index, blocks = getattr(op, "index", None), getattr(op, "blocks", None)
            if isinstance(op, Fill):
                filled = True
            elif blocks is None or index is None or linear_part.dim not in changes:
                others.append(linear_part.op)
            else:
                dim = linear_part.dim
                old, new = before.shape[dim], info.shape[dim]
                own = info.dims[dim]
                widths.append(GrownWidth(dim, own.name, own.side, old, new, linear_part.op, index, blocks))
        if len(widths) != len(changes):
            return None
        return cls(info, before.name, before.layer, tuple(widths), tuple(others), filled)


class DepthMix:
    """How one kind of tensor is mixed over the layers: its growths, the source layers and the target layers.

    Attributes:
        growths: one for each target layer that has the tensor, in order.
        layers: the source layers that they are made of, ascending; `[None]` outside the layers.
    """

    def __init__(self, growths: Sequence[TensorGrowth]) -> None:
        self.growths = tuple(growths)
        self.layers = sorted({g.layer for g in growths}, key=lambda layer: -1 if layer is None else layer)
        self.first = {g.layer: g for g in reversed(self.growths)}

    @property
    def inside(self) -> bool:
        """Whether it stands in the layers."""
        return self.layers != [None]

    @property
    def deepens(self) -> bool:
        """Whether there are more target layers than source layers."""
        return len(self.growths) > len(self.layers)

    def start(self) -> Tensor:
        """(target, source layers) coefficients at the start: 1 for the layer it is made of, none for what starts constant."""
        made = torch.zeros(len(self.growths), len(self.layers), dtype=torch.float64)
        for row, growth in enumerate(self.growths):
            made[row, self.layers.index(growth.layer)] = 0.0 if growth.filled else 1.0
        return made


def mixes_of(recipes: Iterable[TensorRecipe], task: ResizeTask) -> dict[str, DepthMix]:
    """Template -> how its tensors are mixed, of all that grow in width or depth and that a learned map can make."""
    found: dict[str, list[TensorGrowth]] = {}
    for recipe in recipes:
        growth = TensorGrowth.of(recipe, task)
        if growth is not None:
            found.setdefault(growth.info.template, []).append(growth)
    mixes = {template: DepthMix(growths) for template, growths in found.items()}
    return {t: mix for t, mix in mixes.items() if mix.deepens or any(g.widths for g in mix.growths)}


def path(*parts: object) -> str:
    """A parameter's name of several parts, without the dots that modules do not allow.

    Example:
        >>> path("heads", "q", 3), path("vit.layers.{}.mlp.fc1.weight")
        ('heads/q/3', 'vit/layers/mlp/fc1/weight')
    """
    return "/".join(str(part) for part in parts if part not in (None, "")).replace(".{}", "").replace(".", "/")


class GrowthOperator(nn.Module, ABC):
    """A growth as a function of learned parameters; at its start it is exactly the growth it was made of.

    `weights()` gives the target's weights, differentiable in the operator's parameters; the source is constant. What the source
    has nothing for is a parameter of its own.

    Args:
        mixes: what it makes; see `mixes_of`.
        source: the source's parameters.
        start: the target's parameters as the growth makes them, which it starts from.
        fresh: names among them of what starts anew.
        options: of the subclass.
    """

    def __init__(
        self,
        mixes: Mapping[str, DepthMix],
        source: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        fresh: Iterable[str] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        self.mixes = dict(mixes)
        dtype = compute_dtype(next(iter(start.values())).dtype)
        self.learned = nn.ParameterDict(
            {
                name: nn.Parameter(torch.zeros(shape, dtype=dtype))
                for name, shape in self.shapes(mixes, **options).items()
            }
        )
        self.fresh = nn.ParameterDict({path(n): nn.Parameter(start[n].detach().clone().to(dtype)) for n in fresh})
        self._fresh_names = list(fresh)
        # constants move with the module, but are neither saved nor sent to other processes
        self._inputs: dict[Any, Tensor] = {}
        self._starts: dict[Any, Tensor] = {}
        self._rest: dict[Any, Tensor] = {}
        self._read_source(source, dtype)
        with torch.no_grad():
            self.draw()
            made = self.made()
            for name, tensor in start.items():
                if name in fresh:
                    continue
                rest = tensor.detach().to("cpu", dtype)
                if name in made:
                    rest = rest - made[name]
                if name not in made or bool(rest.any()):
                    self._rest[name] = rest.clone()

    # ---- for subclasses

    @staticmethod
    @abstractmethod
    def shapes(mixes: Mapping[str, DepthMix], **options: Any) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every learned parameter, from the plan alone."""

    @abstractmethod
    def made(self) -> dict[str, Tensor]:
        """The linear part of every tensor that it makes, by name."""

    def draw(self) -> None:
        """Fills parameters that do not begin at zero; what is made must stay as it is."""

    # ---- constants

    def _read_source(self, source: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        known: dict[tuple[int, int], list[Tensor]] = {}
        for template, mix in self.mixes.items():
            for layer, growth in mix.first.items():
                context = Context(source.__getitem__, name=growth.info.name)
                tensor = source[growth.source].detach().to("cpu", dtype)
                for op in growth.others:
                    tensor = op(tensor, context)
                self._inputs[template, layer] = tensor
                for width in growth.widths:
                    made = width.start(context).to(dtype)
                    # one for every layer and kind that grow alike
                    alike = known.setdefault((width.new, width.old), [])
                    same = next((one for one in alike if torch.equal(one, made)), None)
                    if same is None:
                        alike.append(made)
                    self._starts[template, layer, width.dim] = made if same is None else same
            if mix.inside:
                self._starts[template] = mix.start().to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved: dict[int, Tensor] = {}
        for held in (self._inputs, self._starts, self._rest):
            for key, tensor in held.items():
                if id(tensor) not in moved:
                    moved[id(tensor)] = fn(tensor)
                held[key] = moved[id(tensor)]
        return self

    # ---- weights

    @without_autocast()  # it would round what the factors multiply
    def weights(self) -> dict[str, Tensor]:
        """Target parameter -> tensor, tied ones once."""
        made = self.made()
        state = {name: tensor for name, tensor in self._rest.items() if name not in made}
        for name, tensor in made.items():
            state[name] = tensor + self._rest[name] if name in self._rest else tensor
        return state | {name: self.fresh[path(name)] for name in self._fresh_names}


def multiplied(tensor: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """`tensor` with a (target, source) matrix applied along `dim`."""
    return (tensor.movedim(dim, -1) @ matrix.T).movedim(-1, dim)


def mixed(coefficients: Tensor, layers: Sequence[Tensor]) -> Sequence[Tensor]:
    """The target layers' tensors: (target, source) coefficients times the source layers'."""
    stack = torch.stack(list(layers))
    flat: Tensor = coefficients @ stack.reshape(len(layers), -1)
    return flat.reshape(len(coefficients), *stack.shape[1:]).unbind()


__all__ = [
    "DepthMix",
    "GrownWidth",
    "GrowthOperator",
    "TensorGrowth",
    "mixed",
    "mixes_of",
    "multiplied",
    "path",
]
