"""What the learngenes share: a tree of parameters named by path, targets, and what happens along depth and width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.learngenes.series import in_series, length_of
from hf_learngene.maps import LayerMap


class Tree(nn.Module):
    """Parameters named by dotted paths, so that a checkpoint reads `shared.vit.layers.mlp.fc1.weight.0`."""

    def put(self, path: str, parameter: nn.Parameter) -> None:
        """Adds a parameter under `path`."""
        first, _, rest = path.partition(".")
        if not rest:
            self.register_parameter(first, parameter)
            return
        if first not in self._modules:
            self.add_module(first, Tree())
        cast(Tree, self._modules[first]).put(rest, parameter)

    def take(self, path: str) -> nn.Parameter:
        """The parameter under `path`."""
        return self.get_parameter(path)

    def paths(self) -> Iterator[str]:
        """Every path, in the order in which they were put."""
        yield from (name for name, _ in self.named_parameters())


def path_of(template: str) -> str:
    """Path of a component's parameters: the template's name without the layer.

    Example:
        >>> path_of("vit.layers.{}.mlp.fc1.weight")
        'vit.layers.mlp.fc1.weight'
    """
    return template.replace(".{}", "")


@dataclass(frozen=True, eq=False)
class Target:
    """One size that a learngene makes weights for.

    Attributes:
        config: of the model to be made.
        anatomy: its anatomy.
        source: the auxiliary model's anatomy.
        stages: for a learngene of stages, the stage of each layer; None follows its rule.
    """

    config: PreTrainedConfig
    anatomy: Anatomy
    source: Anatomy
    stages: tuple[int, ...] | None = None

    @property
    def depth(self) -> int:
        return self.anatomy.num_layers

    def depth_of(self, stage: int | None) -> int:
        """Places along which the components of a stage are made; without stages, the depth."""
        return length_of(self.anatomy, stage)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Its tensors, in the series that layers of one kind make."""
        return in_series(self.anatomy)

    @cached_property
    def templates(self) -> dict[str, TensorInfo]:
        """One tensor of each component, and those that are in none."""
        return one_of_each(self.tensors)

    @cached_property
    def same_width(self) -> bool:
        """Whether every tensor has the auxiliary model's shape."""
        old = one_of_each(in_series(self.source))
        return all(n in old and old[n].shape == t.shape for n, t in self.templates.items())


def one_of_each(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Template -> its first tensor."""
    found: dict[str, TensorInfo] = {}
    for info in tensors.values():
        found.setdefault(info.template, info)
    return found


def stage_of_each_layer(depth: int, stages: int) -> list[int]:
    """The stage of each layer: equal shares, the first stages one layer more; with fewer layers than stages, spread out.

    The rule gives the paper's released example. Its code has none for fewer layers than stages; there, ours.

    Example:
        >>> stage_of_each_layer(12, 5)
        [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
        >>> stage_of_each_layer(3, 5), stage_of_each_layer(1, 5)
        ([0, 2, 4], [0])
    """
    if depth < stages:
        return [layer.index for layer in LayerMap.spread(stages, depth)]
    share, more = divmod(depth, stages)
    return [s for s in range(stages) for _ in range(share + (s < more))]


def picked_layers(stages: Sequence[int], count: int | None = None) -> list[int]:
    """Layers that stand for the stage of each layer: one of the stage's own, all of them spread evenly.

    Example:
        >>> picked_layers([0, 0, 1, 1, 2, 2]), picked_layers([0, 1, 2])
        ([0, 0, 2, 2, 5, 5], [0, 1, 2])
    """
    even = [layer.index for layer in LayerMap.spread(len(stages), count or max(stages) + 1)]
    chosen = {}
    for stage in stages:
        members = [i for i, other in enumerate(stages) if other == stage]
        chosen[stage] = min((abs(i - even[stage]), i) for i in members)[1]
    return [chosen[stage] for stage in stages]


def stacked(names: Mapping[int, str], tensors: Mapping[str, Tensor], depth: int) -> Tensor:
    """A component of a model in all its layers, `(layers, *shape)`; a layer that lacks it lends its neighbour's.

    ModernBERT's first layer has no attention norm, and of an odd number of blocks that alternate the last has no partner.

    Args:
        names: layer -> parameter.
        tensors: the model's, by name.
        depth: number of layers.
    """
    found = {i: t.detach() for i, name in names.items() if (t := tensors.get(name)) is not None}
    return torch.stack([found[min(found, key=lambda known: abs(known - i))] for i in range(depth)])


def along_depth(rows: Tensor, depth: int) -> Tensor:
    """`rows` (layers, ...) at another depth: straight lines between the layers, first and last kept.

    Example:
        >>> along_depth(torch.tensor([[0.0], [1.0]]), 3).flatten().tolist()
        [0.0, 0.5, 1.0]
    """
    if len(rows) == depth:
        return rows
    if len(rows) == 1:
        return rows.expand(depth, *rows.shape[1:])
    flat = rows.reshape(len(rows), -1).T[None]
    wide = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    lines = F.interpolate(wide, size=depth, mode="linear", align_corners=True)
    return lines[0].T.to(rows.dtype).reshape(depth, *rows.shape[1:])


def principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best `count` shared rows and their coefficients: rows ≈ coefficients @ shared (truncated SVD).

    The shared rows have the root mean square of what they stand for, so that one learning rate suits both.

    Args:
        rows: (number, size).
        count: how many to keep, at most `min(number, size)`.

    Returns:
        coefficients (number, count) and shared (count, size).
    """
    wide = rows.double()
    if wide.shape[0] <= wide.shape[1]:
        left = torch.linalg.eigh(wide @ wide.T).eigenvectors.flip(-1)[:, :count]
        shared = left.T @ wide
        coefficients = left
    else:
        right = torch.linalg.eigh(wide.T @ wide).eigenvectors.flip(-1)[:, :count]
        shared, coefficients = right.T, wide @ right
    lengths = shared.pow(2).mean(1, keepdim=True).sqrt().clamp_min(1e-12)
    wanted = wide.pow(2).mean().sqrt().clamp_min(1e-12)
    return (coefficients * (lengths / wanted).T).to(rows.dtype), (shared / lengths * wanted).to(rows.dtype)


def residual(stack: Tensor, made: Sequence[Tensor] | Tensor) -> float:
    """Relative Frobenius distance of what a learngene makes to what it was fitted to."""
    given = torch.stack(list(made)) if not isinstance(made, Tensor) else made
    length = stack.double().norm()
    return float((given.double() - stack.double()).norm() / length) if length > 0 else float(given.double().norm())
