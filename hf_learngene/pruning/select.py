"""Which widths, heads and units are kept: one pass of the source over the calibration examples, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, NormInfo, TensorInfo
from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.calibration.weights import times_of
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import HeadMaps, Selection, beside
from hf_learngene.maps.task import ResizeTask
from hf_learngene.pruning.activations import Runner
from hf_learngene.pruning.candidates import candidates, unit_variances
from hf_learngene.pruning.moments import RIDGE, Moments, enough
from hf_learngene.pruning.optimal_brain_surgeon import kept_heads, kept_units
from hf_learngene.pruning.rotations import head_maps, value_map
from hf_learngene.pruning.stream import NormProducts, ResidualStream, StreamMap
from hf_learngene.pruning.targets import AxisTargets, query_writers, writer
from hf_learngene.state import without_autocast


class CalibratedSelection:
    """Says what is kept of the source, by what it does on the calibration examples.

    Args:
        model: the source.
        task: sizes and layers of source and target.
        examples: calibration examples.
        ridge: of the refit that follows.
        merged: source layers that are one layer of the target, by the first of them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: ResizeTask,
        examples: Batches,
        ridge: float = RIDGE,
        merged: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        self.merged = {first: layers for first, layers in (merged or {}).items() if len(layers) > 1}
        self.model, self.task, self.examples, self.ridge = model, task, examples, ridge
        self.anatomy: Anatomy = task.source
        self.wanted = AxisTargets.of(task)
        self.layers = tuple(layer.index for layer in task.layer_map)
        self._shown: dict[int, Tensor] = {}  # units of merged layers that are looked at

    @torch.no_grad()
    @without_autocast()
    def run(self, disable_progress: bool = False) -> Selection:
        """The choices, after one pass of the source over the examples."""
        wanted = self.wanted
        stream, pooled = StreamMap(None, None, False), None
        products: NormProducts | None = None
        units: dict[int, Tensor] = {}
        heads: dict[int, Tensor] = {}
        inside: dict[int, HeadMaps] = {}
        if wanted.units or wanted.heads or wanted.head_size or self.merged:
            self._shown = self._candidates() if self.merged else {}
            with self._runner() as runner:
                layers = [0] if self.anatomy.shared_layers else sorted(set(self.layers))
                stages: list[list[NormInfo]] = [[] for _ in layers]
                products = self._norm_products() if wanted.width is not None and layers[0] == 0 else None
                if products is not None:
                    stages = self._stages(products.norms, layers)
                for place, layer in enumerate(tqdm(layers, desc="choosing", disable=disable_progress), start=1):
                    runner.cache_prefix(layer, self.examples.batches())
                    following = layers[place] if place < len(layers) else None
                    self._layer(layer, runner, units, heads, inside, following, products, stages[place - 1])
        if wanted.width is not None:
            stream = self._stream(wanted.width, products, disable_progress)
            pooled = stream.coordinates
            if pooled is None:
                pooled = uniform_indices(self.anatomy.sizes["hidden_size"], wanted.width)
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
            merged=self.merged,
        )

    # ---- how each is chosen

    def _runner(self) -> Any:
        """What runs the model, a context manager."""
        return Runner(self.model, self.anatomy)

    def _norm_products(self) -> NormProducts | None:
        """What the norms are given, to be summed up on the way."""
        return NormProducts(self.model, self.anatomy)

    def _stream(self, width: int, products: NormProducts | None, disable_progress: bool) -> StreamMap:
        stream = ResidualStream(self.model, self.anatomy, self.examples, self.ridge)
        return stream.narrowed(width, disable_progress, products)

    def _kept_units(self, gram: Tensor, weight: Tensor, keep: int) -> Tensor:
        return kept_units(gram, weight, keep, 1, self.ridge)

    def _kept_heads(self, gram: Tensor, weight: Tensor, size: int) -> Tensor:
        return kept_heads(gram, weight, size, self.task.groups, self.ridge)

    def _steadied(self, gram: Tensor) -> Tensor:
        return gram

    def _stages(self, norms: Sequence[NormInfo], layers: Sequence[int]) -> list[list[NormInfo]]:
        """The norms that run between one of these layers and the next, with what runs before the first and after the last."""
        stages: list[list[NormInfo]] = [[] for _ in layers]
        place = 0
        for norm in norms:  # in order of execution
            if norm.layer is not None and not self.anatomy.shared_layers:
                place = sum(norm.layer >= layer for layer in layers) - 1
            stages[place].append(norm)
        return stages

    def _candidates(self) -> dict[int, Tensor]:
        """Of layers that become one, the units among which those that stay are chosen."""
        outs = {first: out for first in self.merged if (out := writer(self.anatomy, first, "ffn_out")) is not None}
        names = {first: [self._like(out, layer) for layer in self.merged[first]] for first, out in outs.items()}
        variances = unit_variances(self.model, [n for each in names.values() for n in each], self.examples)
        found = {}
        for first, out in outs.items():
            variance = beside([variances[n] for n in names[first]], -1, out.dims[1])
            found[first] = candidates(variance, self._weight(out, self.merged[first]), self._units(out))
        return found

    def _units(self, out: TensorInfo) -> int:
        """How many ffn units a layer keeps."""
        return self.wanted.units or out.dims[1].size // out.dims[1].parts

    # ---- one layer's heads and units

    def _check_seen(self, info: TensorInfo, layers: Sequence[int], values: Mapping[str, object]) -> None:
        """Refuses what no hook sees: a matrix that a whole attention in one function reads (WavLM)."""
        unseen = next((n for i in layers if (n := self._like(info, i)) not in values), None)
        if unseen is not None:
            raise UnsupportedFamilyError(
                f"`{self.anatomy.model_type}` computes its attention in one function, so what `{unseen}` reads is not seen, and "
                "its heads cannot be chosen by examples. Keep num_attention_heads and the width, or use "
                "method='weight_selection'."
            )

    def _layer(
        self,
        layer: int,
        runner: Runner,
        units: dict[int, Tensor],
        heads: dict[int, Tensor],
        inside: dict[int, HeadMaps],
        following: int | None,
        products: NormProducts | None,
        norms: Sequence[NormInfo],
    ) -> None:
        together = self.merged.get(layer, (layer,))
        many, wanted = len(together), self.wanted
        out = writer(self.anatomy, layer, "ffn_out") if wanted.units or many > 1 else None
        o = writer(self.anatomy, layer, "o") if wanted.heads or wanted.head_size or many > 1 else None
        readers = self._queries(layer) if o is not None and wanted.head_size else {}
        writers = [t for t in (o, out) if t is not None]
        seen = {t.module: Moments() for t in writers} | {n: Moments() for n in readers}
        given, handed = products.wanted(norms) if products is not None else ([], [])
        for number, batch in enumerate(self.examples.batches()):
            shown = tokens_shown(batch)
            found = runner.capture(
                number,
                batch,
                inputs=[*(self._like(t, i) for t in writers for i in together), *given],
                outputs=[*(self._like(t, i) for t in readers.values() for i in together), *handed],
                ahead=following,
            )
            if products is not None:
                products.add(norms, found, batch)
            for info, values, dim in [
                *((t, found.inputs, t.dims[1]) for t in writers),
                *((t, found.outputs, t.dims[0]) for t in readers.values()),
            ]:
                looked = self._shown.get(layer) if info is out else None
                self._check_seen(info, together, values)
                for calls in zip(*(values[self._like(info, i)] for i in together), strict=True):
                    rows = beside(calls, -1, dim)
                    rows = rows_of(rows if looked is None else rows[..., looked], shown)
                    seen[info.module].add(rows, times=times_of(batch))
        if out is not None:
            keep, weight = self._units(out), self._weight(out, together)
            enough(seen[out.module].count, keep, "ffn units")
            looked = self._shown.get(layer, torch.arange(weight.shape[1]))
            kept = self._kept_units(seen[out.module].gram, weight[:, looked], keep)
            units[layer] = looked.to(kept)[kept]
        if o is None:
            return
        moments, weight = seen[o.module], self._weight(o, together)
        (number_of_heads, size), _ = self.task.heads
        if wanted.heads is not None or many > 1:
            enough(moments.count, (wanted.heads or number_of_heads) * size, "entries of the kept heads")
            heads[layer] = self._kept_heads(moments.gram, weight, size)
        if wanted.head_size is not None:
            kept = heads.get(layer, torch.arange(number_of_heads))
            inside[layer] = self._inside(moments, weight, {n: seen[n] for n in readers}, readers, kept, many)

    def _inside(
        self,
        moments: Moments,
        weight: Tensor,
        seen: Mapping[str, Moments],
        readers: Mapping[str, TensorInfo],
        kept: Tensor,
        many: int,
    ) -> HeadMaps:
        size, new = self.task.heads[0][1], int(self.wanted.head_size or 0)
        products = self._products(seen, readers, many * self.task.heads[0][0])
        maps: list[tuple[Tensor, ...]] = []
        for head in kept.tolist():
            span = slice(head * size, (head + 1) * size)
            queries, keys = (self._steadied(products[r][span, span]) for r in "qk")
            q, k = head_maps(queries, keys, new)
            v, back = value_map(self._steadied(moments.gram[span, span]), weight[:, span], new)
            maps.append((q * (new / size) ** 0.5, k, v, back.T))  # attention divides by the root of the head size
        query, key, value, output = (torch.stack(m).cpu() for m in zip(*maps, strict=True))
        return HeadMaps(query, key, value, output)

    def _products(
        self, seen: Mapping[str, Moments], readers: Mapping[str, TensorInfo], heads: int
    ) -> dict[str, Tensor]:
        """Mean products of queries and of keys over (heads x head size)."""
        found: dict[str, Tensor] = {}
        flat = heads * self.task.heads[0][1]
        for name, info in readers.items():
            gram, dim = seen[name].gram, info.dims[0]
            if info.role in ("q", "k"):
                found.setdefault(info.role, gram)
            elif info.role == "qkv" and dim.parts == 3:
                order = torch.arange(3 * flat)
                if dim.by_head:
                    order = order.reshape(heads, 3, -1).transpose(0, 1).flatten()
                found |= {
                    r: gram[order[i * flat : (i + 1) * flat]][:, order[i * flat : (i + 1) * flat]]
                    for i, r in enumerate("qk")
                }
        return found

    def _queries(self, layer: int) -> dict[str, TensorInfo]:
        return {t.module: t for t in query_writers(self.anatomy, layer)}

    @staticmethod
    def _like(info: TensorInfo, layer: int) -> str:
        """The module of a layer that takes the part of a tensor's."""
        return info.module if info.layer is None else info.template.format(layer).rpartition(".")[0]

    def _weight(self, info: TensorInfo, layers: tuple[int, ...]) -> Tensor:
        """A matrix as the stream sees what it writes: with its LayerScale; that of some layers beside one another."""
        found = []
        for layer in layers:
            weight = self.model.get_parameter(f"{self._like(info, layer)}.weight").detach().double()
            if info.scaled_by:
                weight = weight * self.model.get_parameter(info.scaled_by.format(layer)).detach().double()[:, None]
            found.append(weight)
        return torch.cat(found, 1)


__all__ = ["CalibratedSelection"]
