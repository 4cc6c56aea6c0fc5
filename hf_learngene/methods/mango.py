"""Mango: a larger model by one learned map of all weights, factorised as a tensor ring (arXiv 2310.10699, NeurIPS 2023)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from hf_learngene.errors import UnknownOptionError
from hf_learngene.maps.learned import DepthMix, GrownWidth, GrowthOperator, TensorGrowth, multiplied, path
from hf_learngene.methods.base import Paper
from hf_learngene.methods.learned import LearnedGrowth
from hf_learngene.methods.registry import register_method


class MangoOperator(GrowthOperator):
    """W*_bl = sum over r, s, t, u, kinds b' and layers j of K[r, b, b', s] L[t, l, j, u] O[s, t] W_b'j I[u, r]^T.

    Kinds are tensors of one shape in every layer (q, k and v, say), packed together. The cores O and I belong to an axis and
    serve the whole network, L to a depth, K to a pack of kinds. Every core is a departure from the growth that it starts from,
    whose factors stand in its first slice: slice (0, 0) begins at zero. Behind it the ring is random where it leaves slice 0,
    and zero where it comes back, so that all of it begins at zero and still learns. What has no such axis, or does not grow
    along it, passes through the first slice alone.
    """

    @staticmethod
    def shapes(mixes: Mapping[str, DepthMix], *, rank: int = 1, **options: Any) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for pack in _packs(mixes):
            mix = mixes[pack[0]]
            for width in mix.growths[0].widths:
                size = width.new // width.blocks.parts, width.old // width.blocks.parts
                found[_core(width)] = rank, rank, *size
            if mix.inside:
                found[path("kinds", pack[0])] = rank, rank, len(pack), len(pack)
                found[_depth(mix)] = rank, rank, len(mix.growths), len(mix.layers)
        return found

    def draw(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, core in self.learned.items():
            rank = len(core)
            scale = 1 / math.sqrt(core.shape[-1])
            for r, s in itertools.product(range(rank), range(1, rank)):
                if r == 0 or not name.startswith("out/"):  # a ring that never meets slice 0 is broken at O
                    noise = torch.randn(core.shape[2:], generator=generator, dtype=torch.float64) * scale
                    core.data[r, s] = noise.to(core)

    def made(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for pack in _packs(self.mixes):
            if self.mixes[pack[0]].inside:
                state |= self._of_pack(pack)
            else:
                state |= {n: t for template in pack for n, t in self._outside(template).items()}
        return state

    def _outside(self, template: str) -> dict[str, Tensor]:
        mix = self.mixes[template]
        (growth,) = mix.growths
        tensor = self._inputs[template, growth.layer]
        for width in growth.widths:
            start = self._starts[template, growth.layer, width.dim]
            tensor = multiplied(tensor, self._slice(width, start, 0, 0), width.dim)
        return {growth.info.name: tensor}

    def _of_pack(self, pack: Sequence[str]) -> dict[str, Tensor]:
        first = self.mixes[pack[0]]
        growths = [self.mixes[template].growths for template in pack]
        kinds, depth = self.learned[path("kinds", pack[0])], self.learned[_depth(first)]
        writes = [w for w in first.growths[0].widths if w.side != "in"]
        reads = [w for w in first.growths[0].widths if w.side == "in"]
        rank = range(len(kinds))
        inner, outer = (rank if writes else [0]), (rank if reads else [0])
        layers = [[mix.first[layer] for layer in mix.layers] for mix in map(self.mixes.__getitem__, pack)]
        source = torch.stack([torch.stack([self._inputs[g.info.template, g.layer] for g in row]) for row in layers])
        starts = torch.stack([self._starts[template] for template in pack])
        own = torch.eye(len(pack), dtype=kinds.dtype, device=kinds.device)
        # O on the source layers, then L over layers and K over kinds, which are small, while all is half grown; then I
        written = {(s, t): self._along(source, writes, layers, s, t) for s in inner for t in inner}
        whole: Tensor | None = None
        for u in outer:
            deep = {s: torch.zeros(()).to(source) for s in inner}
            for s, t in itertools.product(inner, inner):
                coefficients = depth[t, u] + (starts if t == u == 0 else torch.zeros_like(starts))
                deep[s] = deep[s] + torch.einsum("blj,bj...->bl...", coefficients, written[s, t])
            for r in outer:
                packed = torch.zeros(()).to(source)
                for s in inner:
                    weights = kinds[r, s] + own if r == s == 0 else kinds[r, s]
                    packed = packed + torch.einsum("bc,cl...->bl...", weights, deep[s])
                grown = self._along(packed, reads, growths, u, r)
                whole = grown if whole is None else whole + grown
        made = [tensor for row in cast(Tensor, whole).unbind() for tensor in row.unbind()]
        return {growth.info.name: tensor for growth, tensor in zip(itertools.chain(*growths), made, strict=True)}

    def _along(
        self, stack: Tensor, widths: Sequence[GrownWidth], growths: Sequence[Sequence[TensorGrowth]], s: int, t: int
    ) -> Tensor:
        """A stack (kinds, layers, ...) with slice (s, t) of the cores over some widths; `growths` name each one's start."""
        for width in widths:
            starts = [[self._starts[g.info.template, g.layer, width.dim] for g in row] for row in growths]
            moved = stack.movedim(width.dim + 2, -1)
            if all(one is starts[0][0] for row in starts for one in row):
                moved = moved @ self._slice(width, starts[0][0], s, t).T
            else:  # what a new row holds is weighed by a scale of its layer
                each = torch.stack([torch.stack([self._slice(width, one, s, t) for one in row]) for row in starts])
                moved = torch.einsum("bj...o,bjno->bj...n", moved, each)
            stack = moved.movedim(-1, width.dim + 2)
        return stack

    def _slice(self, width: GrownWidth, start: Tensor, s: int, t: int) -> Tensor:
        """Slice (s, t) of a core over a width, (target, source): the fused parts alike."""
        core: Tensor = self.learned[_core(width)][s, t]
        if width.blocks.parts == 1:
            return start + core if s == t == 0 else core
        whole = start if s == t == 0 else torch.zeros_like(start)
        for rows, columns in zip(width.places(True), width.places(False), strict=True):
            places = rows.to(start.device)[:, None], columns.to(start.device)[None]
            whole = whole.index_put(places, core, accumulate=True)
        return whole


def _core(width: GrownWidth) -> str:
    return path("in" if width.side == "in" else "out", width.axis)


def _depth(mix: DepthMix) -> str:
    return path("layers", f"{len(mix.layers)}-{len(mix.growths)}", mix.growths[0].info.stage)


def _packs(mixes: Mapping[str, DepthMix]) -> list[list[str]]:
    """Templates of one kind, one shape and the same layers, together."""
    found: dict[Any, list[str]] = {}
    for template, mix in mixes.items():
        info = mix.growths[0].info
        places = tuple((g.info.layer, g.layer) for g in mix.growths)
        dims = tuple((d.name, d.size, d.side, d.parts) for d in info.dims)
        found.setdefault((info.kind, dims, places) if mix.inside else template, []).append(template)
    return list(found.values())


@register_method
@dataclass(frozen=True)
class Mango(LearnedGrowth):
    """Learns, on data, one map from all weights to all larger ones: over in, out, layers and kinds at once, in factors of a rank.

    The map begins as the exact growth of `lemon`, and its options say how. `train_dataset=` is what it is trained on, by the
    model's own loss: labels, or masked tokens.

    Args:
        rank (`int`, *optional*, defaults to 1): of the ring of factors. It costs parameters by its square.
        symmetry (`str`, *optional*, defaults to `"proj"`): of the start, as in `lemon`.
        depth (`str`, *optional*, defaults to `"allzero"`): of the start, as in `lemon`.
        allow_lossy (`bool`, *optional*, defaults to `False`): start from a growth that is not exact, as in `lemon`.

    Source: paper, section 3. There the four matrices of attention and eight slices of an ffn four times as wide are packed
    together, which only such sizes allow; here tensors of one shape are. Biases, norms and embeddings take the first slice of
    the cores.
    """

    name: ClassVar[str] = "mango"
    paper: ClassVar[Paper | None] = Paper(
        "Reusing Pretrained Models by Multi-linear Operators for Efficient Training", "2310.10699"
    )
    summary: ClassVar[str] = (
        "one map over all weights, of a rank, learned on data (train_dataset=) from the exact growth on"
    )
    operator_class: ClassVar[type[GrowthOperator]] = MangoOperator

    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise UnknownOptionError(f"rank is a whole number from 1 on; it was {self.rank!r}.")

    def operator_options(self) -> dict[str, Any]:
        return {"rank": self.rank}

    def fewer_parameters(self) -> str:
        lower = f"Take a rank below {self.rank}, or grow" if self.rank > 1 else "Grow"
        return f"{lower} less at once, or depth alone."


__all__ = ["Mango", "MangoOperator"]
