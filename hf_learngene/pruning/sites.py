"""Sites of the refit: the matrices and norms of a pruned model, in order of execution, each beside the source's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import HIDDEN
from hf_learngene.calibration.held_back import cut, rows_in
from hf_learngene.pruning.running import execution_order


@dataclass(frozen=True)
class RefitSite:
    """One module of the target, and the source's module whose part it takes.

    Attributes:
        name: name of the target's module.
        source: name of the source's module.
        weight: the target's tensor.
        layer: the target's layer, None outside the layers.
        source_layer: the source's layer, None outside the layers.
        norm_before: the source's norm (over the width) that ran last before it.
        norm_after: for a writer of the residual stream, the next norm: (target's name, source's name).
        after_layers: outside the layers, whether it comes after them.
        beside: where several layers of the source are one of the target, the modules of the others that take the same part.
        norms_beside: the norms that run last before those.
        skips: whether the source's next norm belongs to a later layer than the site's: the layers in between are pruned.
    """

    name: str
    source: str
    weight: TensorInfo
    layer: int | None
    source_layer: int | None
    norm_before: str | None = None
    norm_after: tuple[str, str] | None = None
    after_layers: bool = False
    skips: bool = False
    beside: tuple[str, ...] = ()
    norms_beside: tuple[str, ...] = ()

    @property
    def is_norm(self) -> bool:
        """Whether the site is a norm, and no matrix."""
        return self.weight.kind == "norm"


def sites_of(
    model: PreTrainedModel,
    anatomy: Anatomy,
    layers: tuple[int, ...],
    depth: int,
    batch: Mapping[str, Tensor],
    merged: Mapping[int, tuple[int, ...]] | None = None,
) -> list[RefitSite]:
    """Sites of every matrix and every norm over the width that a pass of the target reaches, in order of execution.

    Args:
        model: the target.
        anatomy: the target's anatomy.
        layers: source layer of each target layer.
        depth: number of the source's layers.
        batch: one batch of the target's inputs.
        merged: source layers that are one layer of the target, by the first of them.
    """
    merged = merged or {}
    weights: dict[str, TensorInfo] = {}
    for info in anatomy.tensors.values():
        module = model.get_submodule(info.module)
        matrix = info.kind == "linear" and isinstance(module, nn.Linear)
        if info.name == f"{info.module}.weight" and (matrix or (info.kind == "norm" and info.dims[0].axis == HIDDEN)):
            weights[info.module] = info
    closing = {n.name for n in anatomy.norms if n.closes_layer}
    alone = cut(batch, torch.arange(rows_in(batch)) < 1)
    order = execution_order(model, alone, weights)
    norms = [n for n in order if weights[n].kind == "norm"]
    last = max((i for i, n in enumerate(order) if weights[n].layer is not None), default=-1)

    def source_of(name: str) -> str:
        info = weights[name]
        if info.layer is None:
            return name
        layer = layers[info.layer]
        if name in closing:  # what the next layer reads: pruned layers in between are made up for
            layer = layers[info.layer + 1] - 1 if info.layer + 1 < len(layers) else depth - 1
        return info.template.format(layer).rpartition(".")[0]

    def skips(layer: int | None) -> bool:
        following = layers[layer + 1] if layer is not None and layer + 1 < len(layers) else depth
        return layer is not None and following > max(merged.get(layers[layer], layers[layer : layer + 1])) + 1

    def others(info: TensorInfo) -> tuple[int, ...]:
        return merged.get(layers[info.layer], ())[1:] if info.layer is not None and info.role else ()

    def like(name: str, number: int) -> str:
        return weights[name].template.format(number).rpartition(".")[0]

    found = []
    for place, name in enumerate(order):
        info = weights[name]
        before = next((n for n in reversed(order[:place]) if n in norms), None)
        after = next((n for n in order[place + 1 :] if n in norms), None) if info.writes_stream else None
        found.append(
            RefitSite(
                name=name,
                source=source_of(name),
                weight=info,
                layer=info.layer,
                source_layer=layers[info.layer] if info.layer is not None else None,
                norm_before=source_of(before) if before else None,
                norm_after=(after, source_of(after)) if after and info.kind == "linear" else None,
                after_layers=info.layer is None and place > last,
                beside=tuple(like(name, number) for number in others(info)),
                norms_beside=tuple(like(before, number) for number in others(info)) if before else (),
                skips=after in closing and skips(weights[after].layer),
            )
        )
    return found
