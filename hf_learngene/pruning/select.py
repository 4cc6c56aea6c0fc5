"""From calibration examples to choices: one look at what the source does, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HIDDEN
from hf_learngene.errors import CalibrationError, InvalidSizeError
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.task import ResizeTask
from hf_learngene.pruning.activations import Runner, run
from hf_learngene.pruning.examples import Examples, rows_of, tokens_shown
from hf_learngene.pruning.moments import RIDGE, Moments, normalised
from hf_learngene.pruning.selection import HeadMaps, Selection
from hf_learngene.pruning.surgeon import head_maps, kept_heads, kept_units, stream_map, value_map


@dataclass(frozen=True)
class AxisTargets:
    """What a target has of each axis, where it is less than the source's; None where it is the same."""

    width: int | None
    heads: int | None
    head_size: int | None
    units: int | None

    @classmethod
    def of(cls, task: ResizeTask) -> AxisTargets:
        """What a task asks for.

        Raises:
            InvalidSizeError: another head size of a family whose heads are rotated, normalised or share keys.
        """
        anatomy, ((heads, size), (new_heads, new_size)) = task.source, task.heads
        (_, group), _ = task.groups
        if new_size != size and (anatomy.rotary or anatomy.normalised_heads or group > 1):
            how = "rotated or normalised as they are" if group == 1 else "many to a key and a value"
            raise InvalidSizeError(
                f"The heads of `{anatomy.model_type}` are {how}: their size stays {size}. "
                "Shrink num_attention_heads instead."
            )
        changed = {axis: new for axis, (old, new) in task.axis_sizes.items() if new != old}
        return cls(
            changed.get(HIDDEN),
            new_heads if new_heads != heads else None,
            new_size if new_size != size else None,
            changed.get(FFN),
        )


ROUNDS = 4  # in which layers leave
LAYER_EXAMPLES, LAYER_PLACES = 64, 8  # that are looked at for each of them, and batches that they are taken from


@torch.no_grad()
def kept_layers(
    model: PreTrainedModel, anatomy: Anatomy, depth: int, examples: Examples, disable_progress: bool = False
) -> tuple[int, ...]:
    """Which layers stay: those without which the model's output changes most, measured one by one.

    The cheapest leave in a few rounds, each measured anew on the model without those that left before.

    Args:
        model: the source.
        anatomy: its own.
        depth: how many stay.
        examples: calibration examples; a few dozen, spread over all, are looked at.
        disable_progress: no progress bar.
    """
    batches = _few(examples)
    container = layer_container(anatomy)
    wanted = [output_of(model, b) for b in batches]
    alive = list(range(anatomy.num_layers))
    leaving = len(alive) - depth
    with tqdm(total=leaving, desc="choosing layers", disable=disable_progress) as bar:
        while len(alive) > depth:
            gone = [i for i in range(anatomy.num_layers) if i not in alive]
            costs = []
            for layer in alive:
                with skipped(model, container, [*gone, layer]):
                    found = [output_of(model, b) for b in batches]
                costs.append(sum(float((f - w).pow(2).sum()) for f, w in zip(found, wanted, strict=True)))
            portion = min(len(alive) - depth, -(-leaving // ROUNDS))
            order = sorted(range(len(alive)), key=lambda i: costs[i])
            out = {alive[i] for i in order[:portion]}
            alive = [i for i in alive if i not in out]
            bar.update(portion)
    return tuple(alive)


def _few(examples: Examples) -> list[dict[str, Tensor]]:
    """A few examples of some batches, both spread over all: data sets are often sorted by their labels."""
    lengths = [len(next(iter(b.values()))) for b in examples.batches()]
    count = min(len(lengths), max(LAYER_PLACES, -(-LAYER_EXAMPLES * len(lengths) // sum(lengths))))
    places, each = set(uniform_indices(len(lengths), count).tolist()), -(-LAYER_EXAMPLES // count)
    found = []
    for number, batch in enumerate(examples.batches()):
        if number in places:
            length = lengths[number]
            rows = uniform_indices(length, min(each, length))
            found.append({k: v[rows] if v.dim() and len(v) == length else v for k, v in batch.items()})
    return found


def layer_container(anatomy: Anatomy) -> str:
    """Name of the module list that holds the layers."""
    return next(t.partition(".{}.")[0] for t in anatomy.templates if ".{}." in t)


def writer(anatomy: Anatomy, layer: int, role: str) -> TensorInfo | None:
    """The matrix of a layer that has a role, `o` or `ffn_out`."""
    return next(
        (t for t in anatomy.tensors.values() if anatomy.layer_of(t) == layer and t.role == role and len(t.dims) == 2),
        None,
    )


def output_of(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """What the model gives, padding left out."""
    outputs = run(model, batch)
    first = next(v for k, v in outputs.items() if isinstance(v, Tensor) and k != "loss")
    return rows_of(first, tokens_shown(batch)).double()


@contextmanager
def skipped(model: PreTrainedModel, container: str, layers: Sequence[int]) -> Iterator[None]:
    """The layers hand on what they are given."""

    def hook(module: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> Any:
        given = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))
        if isinstance(result, Tensor):
            return given
        return (given, *result[1:])

    with ExitStack() as stack:
        for layer in layers:
            module = model.get_submodule(f"{container}.{layer}")
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


class Deciding:
    """Looks at the source on the examples and says what stays.

    Args:
        model: the source.
        task: sizes and layers of source and target.
        examples: calibration examples.
        ridge: of the refit that follows.
    """

    def __init__(self, model: PreTrainedModel, task: ResizeTask, examples: Examples, ridge: float = RIDGE) -> None:
        self.model, self.task, self.examples, self.ridge = model, task, examples, ridge
        self.anatomy: Anatomy = task.source
        self.wanted = AxisTargets.of(task)
        self.layers = tuple(layer.index for layer in task.layer_map)

    @torch.no_grad()
    def run(self, disable_progress: bool = False) -> Selection:
        """The choices, after one pass of the source over the examples."""
        wanted = self.wanted
        rotation = coordinates = pooled = None
        if wanted.width is not None:
            statistics = self._stream(disable_progress)
            if self.turns:
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
        return Selection(self.layers, coordinates, rotation, pooled, units, heads, inside, group=group)

    @property
    def turns(self) -> bool:
        """Whether the stream may be turned: nothing looks at it but norms whose scale can be moved into what reads them."""
        anatomy = self.anatomy
        norms = [n for n in anatomy.norms if n.axis == HIDDEN]
        if anatomy.norms_that_need_multiples() or anatomy.tied_readers or any(n.writes_stream for n in norms):
            return False
        inside = [t for t in anatomy.tensors.values() if any(d.axis == HIDDEN and d.side == "in" for d in t.dims)]
        return all(t.kind == "linear" and (t.reads_norm or t.layer is None) for t in inside)

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
            maps.append((q * (new / size) ** 0.5, k, v, back))  # attention divides by the root of the head size
        query, key, value, value_back = (torch.stack(m) for m in zip(*maps, strict=True))
        return HeadMaps(query, key, value, value_back)

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
                    number, batch, inputs=names if self.turns else (), outputs=() if self.turns else names
                )
                for norm in norms:
                    for value in (found.inputs if self.turns else found.outputs).get(norm.name, ()):
                        if self.turns:
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
