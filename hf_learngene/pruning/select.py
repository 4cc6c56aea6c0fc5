"""Which widths, heads and units are kept: one pass of the source over the calibration examples, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import HIDDEN
from hf_learngene.calibration.examples import Examples, rows_of, tokens_shown
from hf_learngene.errors import CalibrationError, InvalidSizeError
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import HeadMaps, Selection
from hf_learngene.maps.task import ResizeTask
from hf_learngene.pruning.activations import Runner, without_autocast
from hf_learngene.pruning.moments import RIDGE, Moments, normalised
from hf_learngene.pruning.surgeon import head_maps, kept_heads, kept_units, stream_map, value_map
from hf_learngene.pruning.targets import AxisTargets, writer


def rotates_residual_stream(anatomy: Anatomy) -> bool:
    """Whether the residual stream may be rotated: only norms see it, and their scale can be moved into what reads them."""
    norms = [n for n in anatomy.norms if n.axis == HIDDEN]
    if anatomy.norms_that_need_multiples() or anatomy.tied_readers or any(n.writes_stream for n in norms):
        return False
    readers = [t for t in anatomy.tensors.values() if any(d.axis == HIDDEN and d.side == "in" for d in t.dims)]
    return all(t.kind == "linear" and (t.reads_norm or t.layer is None) for t in readers)


class CalibratedSelection:
    """Says what is kept of the source, by what it does on the calibration examples.

    Args:
        model: the source.
        task: sizes and layers of source and target.
        examples: calibration examples.
        ridge: of the refit that follows.
    """

    def __init__(self, model: PreTrainedModel, task: ResizeTask, examples: Examples, ridge: float = RIDGE) -> None:
        self.model, self.task, self.examples, self.ridge = model, task, examples, ridge
        self.anatomy: Anatomy = task.source
        self.rotates = rotates_residual_stream(task.source)
        self.wanted = AxisTargets.of(task)
        self.layers = tuple(layer.index for layer in task.layer_map)

    @torch.no_grad()
    @without_autocast()
    def run(self, disable_progress: bool = False) -> Selection:
        """The choices, after one pass of the source over the examples."""
        wanted = self.wanted
        rotation = coordinates = pooled = None
        if wanted.width is not None:
            statistics = self._stream(disable_progress)
            if self.rotates:
                centred = all(n.centred for n in self.anatomy.norms if n.axis == HIDDEN)
                rotation = stream_map(statistics, wanted.width, centred)
                pooled = uniform_indices(self.anatomy.sizes["hidden_size"], wanted.width)
            else:
                coordinates = self._coordinates(statistics, wanted.width)
                pooled = coordinates
        units: dict[int, Tensor] = {}
        heads: dict[int, Tensor] = {}
        inside: dict[int, HeadMaps] = {}
        if wanted.units or wanted.heads or wanted.head_size:
            runner = Runner(self.model, self.anatomy)
            try:
                layers = [0] if self.anatomy.shared_layers else sorted(set(self.layers))
                for layer in tqdm(layers, desc="choosing", disable=disable_progress):
                    runner.cache_prefix(layer, self.examples.batches())
                    self._layer(layer, runner, units, heads, inside)
            finally:
                runner.close()
        (_, group), _ = self.task.groups
        (_, head_size), _ = self.task.heads
        return Selection(self.layers, coordinates, rotation, pooled, units, heads, head_size, group, inside)

    @staticmethod
    def _reads_width(info: TensorInfo) -> bool:
        return len(info.dims) == 2 and info.dims[1].axis == HIDDEN and info.dims[1].side == "in"

    # ---- one layer's heads and units

    def _layer(
        self,
        layer: int,
        runner: Runner,
        units: dict[int, Tensor],
        heads: dict[int, Tensor],
        inside: dict[int, HeadMaps],
    ) -> None:
        out = writer(self.anatomy, layer, "ffn_out") if self.wanted.units else None
        o = writer(self.anatomy, layer, "o") if self.wanted.heads or self.wanted.head_size else None
        readers = self._queries(layer) if o is not None and self.wanted.head_size else {}
        seen = {t.module: Moments() for t in (out, o) if t is not None} | {n: Moments() for n in readers}
        for number, batch in enumerate(self.examples.batches()):
            shown = tokens_shown(batch)
            found = runner.capture(
                number, batch, inputs=[t.module for t in (o, out) if t is not None], outputs=list(readers)
            )
            for name, values in [*found.inputs.items(), *found.outputs.items()]:
                for value in values:
                    seen[name].add(rows_of(value, shown))
        if out is not None:
            self._enough(seen[out.module].count, self.wanted.units or 0, "ffn units")
            units[layer] = kept_units(seen[out.module].gram, self._weight(out), self.wanted.units or 0, 1, self.ridge)
        if o is None:
            return
        moments, weight = seen[o.module], self._weight(o)
        size = self.task.heads[0][1]
        if self.wanted.heads is not None:
            self._enough(moments.count, self.wanted.heads * size, "entries of the kept heads")
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

    @staticmethod
    def _enough(count: int, rank: int, what: str) -> None:
        if count < rank:
            raise CalibrationError(
                f"{count} tokens of calibration examples cannot tell {rank} {what} apart; at least {rank} tokens are "
                f"needed, and a few thousand are better. Give about {-(-rank // max(1, count))} times as many examples."
            )

    # ---- the stream

    def _stream(self, disable_progress: bool) -> Tensor:
        """Mean product of the stream at every norm: normalised before it where it is to be turned, else as norms hand it on."""
        norms = [n for n in self.anatomy.norms if n.axis == HIDDEN]
        total: Tensor | None = None
        tokens: dict[str, int] = {}
        runner = Runner(self.model, self.anatomy)
        try:
            for number, batch in enumerate(tqdm(self.examples.batches(), desc="looking", disable=disable_progress)):
                shown = tokens_shown(batch)
                names = [n.name for n in norms]
                found = runner.capture(
                    number, batch, inputs=names if self.rotates else (), outputs=() if self.rotates else names
                )
                for norm in norms:
                    for value in (found.inputs if self.rotates else found.outputs).get(norm.name, ()):
                        if self.rotates:
                            value = normalised(self.model.get_submodule(norm.name), value, norm.centred)
                        moments = Moments()
                        moments.add(rows_of(value, shown))
                        tokens[norm.name] = tokens.get(norm.name, 0) + moments.count
                        share = moments.gram * moments.count
                        total = share if total is None else total + share
        finally:
            runner.close()
        if total is None:
            raise CalibrationError("No norm of the model was reached by the calibration examples.")
        self._enough(max(tokens.values()), self.wanted.width or 0, "directions of the stream")
        return total

    def _coordinates(self, statistics: Tensor, width: int) -> Tensor:
        """Entries of the stream that stay: those that what reads it can spare least, the rest made up for by the kept ones."""
        reads = torch.zeros_like(statistics)
        for info in self.anatomy.tensors.values():
            if self._reads_width(info) and info.dims[1].parts == 1:
                weight = self.model.get_parameter(info.name).detach().double().cpu()
                gram = weight.T @ weight
                reads += gram / gram.diagonal().mean().clamp_min(1e-30)
        # the residual carries every entry on as it is
        reads += torch.eye(len(reads), dtype=reads.dtype) * reads.diagonal().mean()
        factor = torch.linalg.cholesky(reads)
        return kept_units(statistics / statistics.diagonal().mean(), factor.T, width, ridge=self.ridge)
