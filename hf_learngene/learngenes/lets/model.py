"""LeTs: small layers widened by learned maps and mixed in pairs (NeurIPS 2024; code eddiexia98/LeTs).

A small matrix W becomes [I; B] W [I, A^T]: the new rows are sums of the old ones, and so are the new columns. Whatever lives on
the residual stream shares one map; each small layer has maps of its own for q, k, v and the ffn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN, KV_HEADS, Dim
from hf_learngene.errors import InvalidSizeError, UnsupportedFamilyError
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.lets.config import LetsConfig
from hf_learngene.learngenes.parts import Target
from hf_learngene.maps import LayerMap


WIDE = (HIDDEN, HEADS, KV_HEADS, FFN)


class LetsLearngene(Learngene):
    """LeTs, which grows only: descendants lie between the small layers' width and the auxiliary model's.

    The released code trains the position table at full width and slices it, and gives the head an input map of its own; here all
    that writes or reads the residual stream, position table and head included, takes the stream's one map. Its layers 2k and
    2k + 1 share their mixing coefficients, here too. Which auxiliary layer a descendant's layer is made as is the user's list
    there; here `layer_map`, by default spread evenly.
    """

    config_class = LetsConfig
    config: LetsConfig
    changes_width = True

    # ---- sizes

    @property
    def small(self) -> int:
        """Width of the small layers."""
        sizes = self.anatomy.sizes
        width, head = sizes["hidden_size"], sizes["head_dim"]
        given = self.config.learngene_hidden_size
        small = given if given is not None else max(1, sizes["num_attention_heads"] // 2) * head
        if small % head or not head <= small <= width:
            raise InvalidSizeError(
                f"learngene_hidden_size={small} is made of whole heads of {head}, from {head} to the auxiliary model's {width}."
            )
        return small

    @property
    def sources(self) -> int:
        """Number of small layers."""
        return int(self.config.learngene_layers or 1)

    def small_size(self, dim: Dim) -> int:
        """Size of a dimension in the small layers."""
        if dim.axis not in WIDE:
            return dim.size
        return dim.parts * max(1, round(dim.size // dim.parts * self.small / self.anatomy.sizes["hidden_size"]))

    def small_shape(self, info: TensorInfo) -> tuple[int, ...]:
        return tuple(self.small_size(d) for d in info.dims)

    # ---- parameters

    def outside_shape(self, info: TensorInfo) -> tuple[int, ...]:
        return self.small_shape(info)

    def make(self, template: str, info: TensorInfo) -> None:
        if any(d.by_head for d in info.dims):
            raise UnsupportedFamilyError(
                f"`lets` cannot widen `{template}`, whose q, k and v lie inside each head. `wave` changes width without maps."
            )
        for source in range(self.sources):
            self.add_shared(template, f"small.{source}", *self.small_shape(info))
            for dim in info.dims:
                for role in self._roles(dim, info):
                    self._add_map(self._map_name(dim.axis, role, source), dim)
        self.add_shared(template, "mix", -(-self.anatomy.num_layers // 2), 2)

    def _roles(self, dim: Dim, info: TensorInfo) -> list[str]:
        """Roles (q, k, v) of the maps that the fused parts of a dimension take: the value's, for what reads the heads."""
        if dim.axis not in (HEADS, KV_HEADS):
            return [""] * dim.parts
        if info.role == "qkv":
            return list("qkv")
        return ["v" if dim.side == "in" or info.role not in ("q", "k") else info.role] * dim.parts

    def _map_name(self, axis: str, role: str, source: int) -> str:
        return "hidden" if axis == HIDDEN else f"{axis}_{role}.{source}" if role else f"{axis}.{source}"

    def _add_map(self, name: str, dim: Dim) -> None:
        if dim.axis not in WIDE:
            return
        path = f"maps.{name}"
        if path not in set(self.shared.paths()):
            small, wide = self.small_size(dim) // dim.parts, dim.size // dim.parts
            self._add("shared", path, (wide - small, small))

    def map_of(self, axis: str, role: str, source: int) -> Tensor:
        return self.shared.take(f"maps.{self._map_name(axis, role, source)}")

    def draw(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        self._start(template)
        for source in range(self.sources):
            index = tuple(slice(n) for n in self.small_shape(info))
            self.part(template, f"small.{source}").copy_(stack[self._layer(source)][index])
        for path in self.shared.paths():
            if path.startswith("maps."):
                weights = torch.rand_like(self.shared.take(path))  # rows that sum to 1, as released
                self.shared.take(path).copy_(weights / weights.sum(-1, keepdim=True))

    def _start(self, template: str) -> None:
        """Starts each pair's coefficients at 1 for the nearer small layer and 0 for the other.

        The release starts every row near (1, 0) with uniform noise up to 0.03, normalised, for the first of the pair.
        """
        mix = self.part(template, "mix")
        mix.zero_()
        for row in range(len(mix)):
            layer = min(2 * row, self.anatomy.num_layers - 1)
            first, second = self._pair(layer)
            nearer = abs(self._layer(second) - layer) < abs(self._layer(first) - layer)
            mix[row, 1 if nearer else 0] = 1.0

    def _layer(self, source: int) -> int:
        """Index of the auxiliary layer that a small layer stands for."""
        return source * self.anatomy.num_layers // self.sources

    def _pair(self, layer: int) -> tuple[int, int]:
        """The two small layers that an auxiliary layer mixes."""
        pairs = max(1, self.sources // 2)
        first = 2 * (layer * pairs // self.anatomy.num_layers)
        return min(first, self.sources - 1), min(first + 1, self.sources - 1)

    # ---- fitting

    def fill_outside(self, name: str, info: TensorInfo, tensor: Tensor) -> None:
        index = tuple(slice(n) for n in self.small_shape(info))
        self.outside.take(name).copy_(tensor[index])

    def prepare_fit(self, stacks: dict[str, Tensor]) -> None:
        """Fits the maps by least squares: each wide entry from the small ones, over everything that is written along the axis."""
        rows: dict[str, list[Tensor]] = {}
        for template, info in self.components.items():
            for source in range(self.sources):
                layer = stacks[template][self._layer(source)].double()
                for place, dim in enumerate(info.dims):
                    if dim.axis not in WIDE:
                        continue
                    parts = layer.unflatten(place, (dim.parts, -1)).unbind(place)
                    for role, part in zip(self._roles(dim, info), parts, strict=True):
                        rows.setdefault(self._map_name(dim.axis, role, source), []).append(
                            part.movedim(place, -1).reshape(-1, part.shape[place])
                        )
        for name, found in rows.items():
            held = self.shared.take(f"maps.{name}")
            small = held.shape[1]
            if not held.numel():
                continue
            table = torch.cat(found)
            known, wanted = table[:, :small], table[:, small:]
            ridge = 1e-3 * known.pow(2).sum(0).mean().clamp_min(1e-12)
            gram = known.T @ known + ridge * torch.eye(small, dtype=known.dtype, device=known.device)
            held.copy_(torch.linalg.solve(gram, known.T @ wanted).T)

    def fit(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        self._start(template)
        for source in range(self.sources):
            made = stack[self._layer(source)].double()
            for place, dim in enumerate(info.dims):
                if dim.axis in WIDE and self.small_size(dim) != dim.size:
                    made = self._project(made, place, dim, info, source)
            self.part(template, f"small.{source}").copy_(made)

    def _project(self, tensor: Tensor, place: int, dim: Dim, info: TensorInfo, source: int) -> Tensor:
        """The small entries that come nearest to the wide ones once they are widened."""
        done = []
        parts = tensor.unflatten(place, (dim.parts, -1)).unbind(place)
        for role, part in zip(self._roles(dim, info), parts, strict=True):
            grown = self.map_of(dim.axis, role, source).double()
            whole = torch.cat([torch.eye(grown.shape[1], dtype=grown.dtype, device=grown.device), grown])
            done.append((part.movedim(place, -1) @ torch.linalg.pinv(whole).T).movedim(-1, place))
        return torch.stack(done, place).flatten(place, place + 1)

    # ---- weights

    def check_target(self, target: Target) -> None:
        sizes, own = target.anatomy.sizes, self.anatomy.sizes
        width, most = sizes["hidden_size"], own["hidden_size"]
        if not self.small <= width <= most:
            raise InvalidSizeError(
                f"hidden_size={width} is out of reach: this learngene makes widths from {self.small} to {most}, in "
                f"whole heads of "
                f"{own['head_dim']}."
            )
        for info in target.anatomy.templates.values():
            known = self.anatomy.templates.get(info.template)
            for a, b in zip(known.dims if known else (), info.dims, strict=False):
                if a.axis not in WIDE and a.size != b.size:
                    raise InvalidSizeError(
                        f"`{info.template}` has {a.size} entries of `{a.axis}`, and no map makes {b.size} of them: this family's "
                        f"learngene keeps hidden_size={most}."
                    )
                if a.axis in WIDE and not self.small_size(a) <= b.size <= a.size:
                    raise InvalidSizeError(
                        f"`{info.template}` has {b.size} entries; this learngene makes {self.small_size(a)} to {a.size}. Leave "
                        "intermediate_size to follow the width."
                    )

    def layers_of(self, target: Target) -> list[int]:
        """Indices of the auxiliary layers that the target's layers are made as."""
        given = self.config.layer_map
        if given is not None and len(given) == target.depth:
            return list(given)
        return [layer.index for layer in LayerMap.spread(self.anatomy.num_layers, target.depth)]

    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]:
        wanted = target.anatomy.templates.get(template, info)
        wide: dict[int, Tensor] = {}
        mix = self.part(template, "mix")
        mixed: dict[tuple[int, int, int], Tensor] = {}
        made = []
        for layer in self.layers_of(target):
            row, (first, second) = layer // 2, self._pair(layer)
            for source in (first, second):
                if source not in wide:
                    wide[source] = self._widen(self.part(template, f"small.{source}"), info, wanted, source)
            if (row, first, second) not in mixed:  # layers 2k and 2k + 1 are one and the same
                mixed[row, first, second] = torch.addcmul(mix[row, 0] * wide[first], mix[row, 1], wide[second])
            made.append(mixed[row, first, second])
        return made

    def _widen(self, tensor: Tensor, info: TensorInfo, wanted: TensorInfo, source: int) -> Tensor:
        dims = enumerate(zip(info.dims, wanted.dims, strict=True))
        for place, (dim, new) in sorted(
            dims, key=lambda one: -one[1][0].size
        ):  # the largest map while the rest is small
            if dim.axis not in WIDE:
                continue
            size = new.size // new.parts
            if dim.parts == 1 and size == tensor.shape[place]:
                continue
            done = []
            for role, part in zip(
                self._roles(dim, info), tensor.unflatten(place, (dim.parts, -1)).unbind(place), strict=True
            ):
                more = size - part.shape[place]
                if more:
                    grown = self.map_of(dim.axis, role, source)[:more]
                    part = torch.cat([part, (part.movedim(place, -1) @ grown.T).movedim(-1, place)], place)
                done.append(part)
            tensor = done[0] if len(done) == 1 else torch.stack(done, place).flatten(place, place + 1)
        return tensor

    def _outside(self, name: str, info: TensorInfo, target: Target) -> Tensor:
        return self._widen(self.outside.take(name), self.anatomy.tensors[name], info, 0)


__all__ = ["LetsLearngene"]
