"""The order in which parts of a model would leave it: a model that is sorted by it has its smaller sizes as its first parts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, anatomy_of
from hf_learngene.anatomy.types import FFN, HEAD_COUNT
from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.shares import decided, shared
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.maps import LayerMap
from hf_learngene.maps.selection import Selection
from hf_learngene.maps.task import ResizeTask, in_stream
from hf_learngene.pruning.layers import leaving_layers
from hf_learngene.pruning.moments import RIDGE
from hf_learngene.pruning.optimal_brain_surgeon import leaving_order
from hf_learngene.pruning.rotations import turned_map
from hf_learngene.pruning.select import CalibratedSelection
from hf_learngene.pruning.stream import NormProducts, ResidualStream, StreamMap, rotates_residual_stream
from hf_learngene.pruning.targets import AxisTargets, heads_can_shrink


STEADY = 1e-3  # of a mean product's trace, added to each direction: what maps a head is stored, and must be well conditioned


class Order(NamedTuple):
    """What a model is sorted by.

    Attributes:
        layers: those that stay longest first.
        selection: all of the model, in its new order: heads, units, and entries or directions of the residual stream.
    """

    layers: tuple[int, ...]
    selection: Selection


def leaving(model: PreTrainedModel, examples: Batches, ridge: float = RIDGE, disable_progress: bool = False) -> Order:
    """The order in which layers, heads, ffn units and the width of the residual stream would leave a model.

    Each is ordered by what `calibrated` chooses by: layers by what the output loses without them, heads and units by what the
    others cannot make up for, and the residual stream by its principal directions, or by entries where norms leave no choice.
    Inside each head, queries and keys, and values and what reads them, are brought to directions of falling weight.

    Args:
        model: the model; it is left as it is.
        examples: calibration examples.
        ridge: as for `calibrated`.
        disable_progress: no progress bars.

    Raises:
        UnsupportedFamilyError: a width inside the layers of which it is not known what stands where.
    """
    anatomy = anatomy_of(model.config, type(model))
    if anatomy.composed_layers:
        raise UnsupportedFamilyError(
            f"What would leave `{anatomy.model_type}` first is not known: {' and '.join(anatomy.composed_layers)} count a width "
            "inside its layers in a way of their own."
        )
    whole = ResizeTask(anatomy, anatomy, LayerMap.pick(range(anatomy.num_layers)))
    with shared(examples) as mine:
        depth = anatomy.num_layers  # one by one: of neighbours that leave together, each was measured beside the other
        left = leaving_layers(model, anatomy, 1, mine, disable_progress, rounds=depth) if depth > 1 else ()
        last = (layer for layer in range(depth) if layer not in left)
        found = decided(_Sorted(model, whole, mine, ridge).run(disable_progress))
    return Order((*last, *reversed(left)), found)


class _Sorted(CalibratedSelection):
    """Chooses everything, in order."""

    def __init__(self, model: PreTrainedModel, task: ResizeTask, examples: Batches, ridge: float) -> None:
        super().__init__(model, task, examples, ridge)
        sizes, (heads, size) = task.source.sizes, task.heads[0]
        # queries that share a key and a value stay where they are, and heads that all layers have one table of
        tables = any(d.axis == HEAD_COUNT for t in task.source.tensors.values() if t.layer is None for d in t.dims)
        alone = task.groups[0].queries == 1 and not tables
        self.wanted = AxisTargets(
            None if model.base_model is model else sizes["hidden_size"],  # else its output would be in another order
            heads if alone else None,
            size if heads_can_shrink(task.source) and self._sees_heads() else None,
            next((old for axis, (old, _) in task.axis_sizes.items() if axis == FFN), None),
        )

    def _sees_heads(self) -> bool:
        """Whether queries and keys of every layer are seen."""
        roles = [
            {r for t in self._queries(layer).values() for r in t.role} for layer in range(self.anatomy.num_layers)
        ]
        return all(found >= {"q", "k"} for found in roles)

    def _stream(self, width: int, products: NormProducts | None, disable_progress: bool) -> StreamMap:
        stream = ResidualStream(self.model, self.anatomy, self.examples, self.ridge)
        if not turns(self.anatomy):
            return StreamMap(stream.ordered(disable_progress, products), None, False)
        seen = (products or stream.looked(disable_progress)).total(width).cpu()
        return StreamMap(None, turned_map(seen, all(n.centred for n in stream.norms)), False)

    def _kept_units(self, gram: Tensor, weight: Tensor, keep: int) -> Tensor:
        return leaving_order(gram, weight, 1, self.ridge)

    def _kept_heads(self, gram: Tensor, weight: Tensor, size: int) -> Tensor:
        return leaving_order(gram, weight, size, self.ridge)

    def _steadied(self, gram: Tensor) -> Tensor:
        return gram + STEADY * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def turns(anatomy: Anatomy) -> bool:
    """Whether the residual stream can be turned without loss: what its norms scale and shift by can go into what reads them."""
    readers = [t for t in anatomy.tensors.values() if in_stream(t, "in") and any(d.side == "in" for d in t.dims)]
    shifted = {t.module for t in anatomy.tensors.values() if t.kind == "norm_bias"}
    biases = {t.module for t in anatomy.tensors.values() if t.kind == "bias"}
    return rotates_residual_stream(anatomy) and all(
        t.norm and (t.norm.format(t.layer) not in shifted or t.module in biases) for t in readers
    )


__all__ = ["Order", "leaving", "turns"]
