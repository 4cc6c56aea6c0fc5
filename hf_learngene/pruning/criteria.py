"""What the ranking methods share: scores of layers, heads, units and entries of the residual stream; the highest are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN, KV_HEADS
from hf_learngene.calibration.examples import Batches, tokens_shown
from hf_learngene.maps.selection import Selection
from hf_learngene.maps.task import ResizeTask, in_stream
from hf_learngene.pruning.activations import Runner
from hf_learngene.pruning.moments import check_finite
from hf_learngene.pruning.targets import AxisTargets, writer


@dataclass
class Scores:
    """How much each part matters; the highest are kept. Only the order counts, and sums over the entries of a head.

    Attributes:
        layers: (layers,).
        stream: of the entries of the residual stream, (width,).
        units: of each layer's ffn, (units,).
        heads: of each layer's attention, (heads x head size,).
    """

    layers: Tensor
    stream: Tensor
    units: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)

    def kept_layers(self, depth: int) -> tuple[int, ...]:
        """The layers of the highest scores, in order.

        Example:
            >>> Scores(torch.tensor([0.5, 0.1, 0.9]), torch.ones(4)).kept_layers(2)
            (0, 2)
        """
        return tuple(largest(self.layers, depth).tolist())

    def selection(self, task: ResizeTask) -> Selection:
        """What is kept of widths, heads and units, in the layers of the task.

        Raises:
            InvalidSizeError: another head size of a family whose heads are rotated, normalised or share keys.
        """
        wanted, anatomy = AxisTargets.of(task), task.source
        layers = tuple(layer.index for layer in task.layer_map)
        (count, size), (_, new_size) = task.heads
        (groups, group), (keep, most) = task.groups
        heads, entries, units = {}, {}, {}
        for layer in (0,) if anatomy.shared_layers else sorted(set(layers)):
            if wanted.units is not None and layer in self.units:
                units[layer] = largest(self.units[layer], wanted.units)
            if layer in self.heads and (wanted.heads is not None or wanted.head_size is not None):
                each = self.heads[layer].reshape(count, size)
                grouped = each.sum(1).reshape(groups, group)
                stay = largest(grouped.sum(1), keep)
                kept = torch.cat([g * group + largest(grouped[g], most) for g in stay.tolist()])
                heads[layer] = kept
                if wanted.head_size is not None:
                    entries[layer] = torch.stack([largest(each[h], new_size) for h in kept.tolist()])
        coordinates = largest(self.stream, wanted.width) if wanted.width is not None else None
        return Selection(
            layers, coordinates, None, coordinates, units, heads, head_size=size, group=group, entries=entries
        )


def largest(scores: Tensor, keep: int) -> Tensor:
    """Indices of the largest, ascending; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:keep].sort().values


def sum_over_tensors(anatomy: Anatomy, values: Callable[[TensorInfo], Tensor]) -> Scores:
    """Each part's score is the sum over every weight that is pruned with it."""
    found = Scores(
        torch.zeros(max(1, anatomy.num_layers), dtype=torch.float64),
        torch.zeros(anatomy.sizes["hidden_size"], dtype=torch.float64),
    )
    heads = anatomy.sizes.get("num_attention_heads", 1)
    for info in anatomy.tensors.values():
        value, layer = values(info), anatomy.layer_of(info)
        if layer is not None:
            found.layers[layer] += value.sum()
        for index, dim in enumerate(info.dims):
            if dim.side == "-":
                continue
            others = [i for i in range(value.dim()) if i != index]
            along = value.sum(others) if others else value
            if dim.axis == HIDDEN and in_stream(info, dim.side):
                found.stream += along.reshape(dim.parts, -1).sum(0)
            elif dim.axis == FFN and layer is not None:
                _add(found.units, layer, along.reshape(dim.parts, -1).sum(0))
            elif dim.axis == KV_HEADS and layer is not None:  # shared among the query heads of a group
                shared = along.reshape(anatomy.sizes["num_key_value_heads"], 1, -1)
                group = heads // len(shared)
                _add(found.heads, layer, shared.expand(-1, group, -1).flatten() / group)
            elif dim.axis == HEADS and layer is not None:
                opened = (
                    along.reshape(heads, dim.parts, -1).sum(1) if dim.by_head else along.reshape(dim.parts, -1).sum(0)
                )
                _add(found.heads, layer, opened.flatten())
    return found


def _add(found: dict[int, Tensor], layer: int, value: Tensor) -> None:
    found[layer] = found[layer] + value if layer in found else value


@torch.no_grad()
def activation_scores(
    model: PreTrainedModel, anatomy: Anatomy, examples: Batches, widths: bool, disable_progress: bool
) -> Scores:
    """Scores by what is most active, and layers by how far they rotate the residual stream: 1 - cos(input, output).

    Args:
        model: the source.
        anatomy: its own.
        examples: calibration examples.
        widths: whether entries of the residual stream, units and heads are scored, by the norm over examples of the mean over
            tokens of the absolute activation; else layers alone.
        disable_progress: no progress bar.
    """
    depth = anatomy.num_layers
    norms = [n.name for n in anatomy.norms if n.axis == HIDDEN] if widths else []
    writers: dict[str, tuple[str, int]] = {}
    for layer in range(1 if anatomy.shared_layers else depth) if widths else ():
        for role in ("ffn_out", "o"):
            info = writer(anatomy, layer, role)
            if info is not None:
                writers[info.module] = role, layer
    blocks = [f"{container}.{i}" for container in anatomy.containers[:1] for i in range(depth)]
    squares: dict[str, Tensor] = {}
    turns = torch.zeros(depth, dtype=torch.float64)
    with Runner(model, anatomy) as runner:
        for number, batch in enumerate(tqdm(examples.batches(), desc="scoring", disable=disable_progress)):
            shown = tokens_shown(batch)
            seen = runner.capture(number, batch, inputs=[*writers, *blocks], outputs=[*norms, *blocks])
            for name, values in [(n, seen.inputs[n]) for n in writers] + [(n, seen.outputs[n]) for n in norms]:
                for value in values:
                    more = _means(value, shown).pow(2).sum(0).cpu()
                    squares[name] = squares[name] + more if name in squares else more
            for layer, name in enumerate(blocks):
                cosine = torch.cosine_similarity(seen.inputs[name][0].double(), seen.outputs[name][0].double(), dim=-1)
                # a family may lengthen its texts (Longformer, to whole windows), or put an image behind them (ViLT)
                masked = shown is not None and shown.shape == cosine.shape
                mask = cast(Tensor, shown).to(cosine) if masked else torch.ones_like(cosine)
                turns[layer] += ((1 - cosine) * mask).sum().cpu()
    check_finite(turns, *squares.values())
    width = anatomy.sizes["hidden_size"]
    # modelopt sums over the norms inside the layers; here the final one and BERT's behind the embeddings count too
    stream = torch.stack([squares[n].sqrt() for n in norms]).sum(0) if norms else torch.zeros(width)
    found = Scores(turns, stream)
    for name, (role, layer) in writers.items():
        (found.units if role == "ffn_out" else found.heads)[layer] = squares[name]
    return found


def _means(value: Tensor, shown: Tensor | None) -> Tensor:
    """(examples, entries): mean over the tokens of the absolute value, padding left out."""
    size = value.double().abs()
    if size.dim() < 3:
        return size.reshape(-1, size.shape[-1])
    size = size.reshape(size.shape[0], -1, size.shape[-1])
    if shown is None or shown.shape != size.shape[:2]:
        return size.mean(1)
    mask = shown.to(size.device).double()[..., None]
    return (size * mask).sum(1) / mask.sum(1).clamp_min(1)
