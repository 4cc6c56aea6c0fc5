"""Which widths, heads and units are kept: one pass of the source over the calibration examples, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import HeadMaps, Selection
from hf_learngene.maps.task import ResizeTask
from hf_learngene.pruning.activations import Runner, without_autocast
from hf_learngene.pruning.moments import RIDGE, Moments, enough
from hf_learngene.pruning.stream import ResidualStream, StreamMap
from hf_learngene.pruning.surgeon import head_maps, kept_heads, kept_units, value_map
from hf_learngene.pruning.targets import AxisTargets, writer


class CalibratedSelection:
    """Says what is kept of the source, by what it does on the calibration examples.

    Args:
        model: the source.
        task: sizes and layers of source and target.
        examples: calibration examples.
        ridge: of the refit that follows.
    """

    def __init__(self, model: PreTrainedModel, task: ResizeTask, examples: Batches, ridge: float = RIDGE) -> None:
        self.model, self.task, self.examples, self.ridge = model, task, examples, ridge
        self.anatomy: Anatomy = task.source
        self.wanted = AxisTargets.of(task)
        self.layers = tuple(layer.index for layer in task.layer_map)

    @torch.no_grad()
    @without_autocast()
    def run(self, disable_progress: bool = False) -> Selection:
        """The choices, after one pass of the source over the examples."""
        wanted = self.wanted
        stream, pooled = StreamMap(None, None, False), None
        if wanted.width is not None:
            stream = ResidualStream(self.model, self.anatomy, self.examples, self.ridge).narrowed(
                wanted.width, disable_progress
            )
            pooled = stream.coordinates
            if pooled is None:
                pooled = uniform_indices(self.anatomy.sizes["hidden_size"], wanted.width)
        units: dict[int, Tensor] = {}
        heads: dict[int, Tensor] = {}
        inside: dict[int, HeadMaps] = {}
        if wanted.units or wanted.heads or wanted.head_size:
            runner = Runner(self.model, self.anatomy)
            try:
                layers = [0] if self.anatomy.shared_layers else sorted(set(self.layers))
                for place, layer in enumerate(tqdm(layers, desc="choosing", disable=disable_progress), start=1):
                    runner.cache_prefix(layer, self.examples.batches())
                    self._layer(layer, runner, units, heads, inside, layers[place] if place < len(layers) else None)
            finally:
                runner.close()
        (_, group), _ = self.task.groups
        (_, head_size), _ = self.task.heads
        return Selection(
            self.layers,
            stream.coordinates,
            stream.rotation,
            pooled,
            units,
            heads,
            head_size,
            group,
            inside,
            gains=stream.gains,
        )

    # ---- one layer's heads and units

    def _layer(
        self,
        layer: int,
        runner: Runner,
        units: dict[int, Tensor],
        heads: dict[int, Tensor],
        inside: dict[int, HeadMaps],
        following: int | None,
    ) -> None:
        out = writer(self.anatomy, layer, "ffn_out") if self.wanted.units else None
        o = writer(self.anatomy, layer, "o") if self.wanted.heads or self.wanted.head_size else None
        readers = self._queries(layer) if o is not None and self.wanted.head_size else {}
        seen = {t.module: Moments() for t in (out, o) if t is not None} | {n: Moments() for n in readers}
        for number, batch in enumerate(self.examples.batches()):
            shown = tokens_shown(batch)
            found = runner.capture(
                number, batch, [t.module for t in (o, out) if t is not None], list(readers), ahead=following
            )
            for name, values in [*found.inputs.items(), *found.outputs.items()]:
                for value in values:
                    seen[name].add(rows_of(value, shown))
        if out is not None:
            enough(seen[out.module].count, self.wanted.units or 0, "ffn units")
            units[layer] = kept_units(seen[out.module].gram, self._weight(out), self.wanted.units or 0, 1, self.ridge)
        if o is None:
            return
        moments, weight = seen[o.module], self._weight(o)
        size = self.task.heads[0][1]
        if self.wanted.heads is not None:
            enough(moments.count, self.wanted.heads * size, "entries of the kept heads")
            heads[layer] = kept_heads(moments.gram, weight, size, self.task.groups, self.ridge)
        if self.wanted.head_size is not None:
            kept = heads.get(layer, torch.arange(self.task.heads[0][0]))
            inside[layer] = self._inside(moments, weight, {n: seen[n] for n in readers}, readers, kept)

    def _inside(
        self,
        moments: Moments,
        weight: Tensor,
        seen: Mapping[str, Moments],
        readers: Mapping[str, TensorInfo],
        kept: Tensor,
    ) -> HeadMaps:
        size, new = self.task.heads[0][1], int(self.wanted.head_size or 0)
        products = self._products(seen, readers)
        maps: list[tuple[Tensor, ...]] = []
        for head in kept.tolist():
            span = slice(head * size, (head + 1) * size)
            q, k = head_maps(products["q"][span, span], products["k"][span, span], new)
            v, back = value_map(moments.gram[span, span], weight[:, span], new)
            maps.append((q * (new / size) ** 0.5, k, v, back.T))  # attention divides by the root of the head size
        query, key, value, output = (torch.stack(m) for m in zip(*maps, strict=True))
        return HeadMaps(query, key, value, output)

    def _products(self, seen: Mapping[str, Moments], readers: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
        """Mean products of queries and of keys over (heads x head size)."""
        found: dict[str, Tensor] = {}
        flat = self.task.heads[0][0] * self.task.heads[0][1]
        for name, info in readers.items():
            gram, dim = seen[name].gram, info.dims[0]
            if info.role in ("q", "k"):
                found.setdefault(info.role, gram)
            elif info.role == "qkv" and dim.parts == 3:
                order = torch.arange(3 * flat)
                if dim.by_head:
                    order = order.reshape(self.task.heads[0][0], 3, -1).transpose(0, 1).flatten()
                found |= {
                    r: gram[order[i * flat : (i + 1) * flat]][:, order[i * flat : (i + 1) * flat]]
                    for i, r in enumerate("qk")
                }
        if found.keys() != {"q", "k"}:
            raise InvalidSizeError(
                f"The head size of `{self.anatomy.model_type}` cannot change: its queries and keys are not seen."
            )
        return found

    def _queries(self, layer: int) -> dict[str, TensorInfo]:
        roles = ("q", "k", "qkv")
        return {
            t.module: t
            for t in self.anatomy.tensors.values()
            if self.anatomy.layer_of(t) == layer and t.role in roles and len(t.dims) == 2 and t.reads_norm
        }

    def _weight(self, info: TensorInfo) -> Tensor:
        """A matrix as the stream sees what it writes: with its LayerScale."""
        weight = self.model.get_parameter(info.name).detach().double().cpu()
        if info.scaled_by:
            weight = (
                weight * self.model.get_parameter(info.scaled_by.format(info.layer)).detach().double().cpu()[:, None]
            )
        return weight


__all__ = ["CalibratedSelection"]
