"""WAVE: W[l] = sum over t of scaler[l, t] ⊗ template[t] (arXiv 2406.17503, CVPR 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.errors import InvalidSizeError, UnsupportedFamilyError
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.fine.model import draw_mixture, fit_mixture, is_matrix, mixed
from hf_learngene.learngenes.growth import at_width
from hf_learngene.learngenes.parts import (
    Target,
    along_depth,
    path_of,
    picked_layers,
    principal,
    stage_of_each_layer,
)
from hf_learngene.learngenes.wave.config import WaveConfig
from hf_learngene.learngenes.weighted_fit import solve_few


logger = logging.get_logger("transformers")


class WaveLearngene(Learngene):
    """WAVE: templates shared by all layers and sizes, and for each layer a small grid of scalers for each template.

    The paper writes template ⊗ scaler; here it is scaler ⊗ template, "concatenating and weighting templates" as its abstract
    says. The two differ by a fixed shuffle of rows and columns. Attention parts the rows into heads, so they span different
    auxiliary models: the paper's order scatters a head over all rows, this one keeps heads whole, and a wider model is more
    blocks. Queries, keys and values have templates of their own; the paper's are one fused matrix. It is silent on biases and
    norms (here: blocks of shared vectors) and on template sizes.

    Scalers of a new depth start on the lines through the auxiliary model's, those of a new width as copies of its blocks, read
    at equal shares: at twice the width this is the auxiliary model's function. The paper draws them at random; that start is not
    offered.

    In a hierarchy, of which the paper has none, every stage has templates of its own, which suit its width. Shared by all stages
    they would have to divide the first one's, and a matrix of a stage eight times as wide would be 64 times as many blocks, with
    a scaler for each block and template.
    """

    config_class = WaveConfig
    config: WaveConfig
    changes_width = True
    refits = True
    within_stages = True

    def __init__(self, config: WaveConfig) -> None:
        self._sides: dict[int | None, int] = {}
        self._asked = 0
        super().__init__(config)
        dense = sum(t.numel for t in self.tensors.values() if t.layer is not None and is_matrix(t))
        if self._asked >= dense and config.shapes is None:
            logger.warning(
                f"The templates would hold {self._asked:,} parameters, the layers they stand for hold {dense:,}: "
                f"nothing is saved. "
                f"Lower template_share ({config.template_share})."
            )

    @property
    def side(self) -> int:
        """Side of the templates of a model without stages."""
        return self.side_of(None)

    def side_of(self, stage: int | None) -> int:
        """Side of the templates of a stage, or of a model that has none."""
        if not self._sides:
            given = self.config.template_size
            sides = given if isinstance(given, list) else [given] * max(1, self.anatomy.num_stages)
            for part, side in zip(self.anatomy.parts, sides, strict=True):
                self._sides[part.stage] = side or self._default_side(part)
                self._check_side(self._sides[part.stage], part)
            # stays what it is at every other width
            found = list(self._sides.values())
            self.config.template_size = found if self.anatomy.num_stages else found[0]
        return self._sides[stage]

    def _default_side(self, part: Anatomy) -> int:
        width, heads = part.sizes["hidden_size"], part.sizes.get("num_attention_heads", 0)
        return width // 2 if heads % 2 == 0 and width % 2 == 0 else part.sizes.get("head_dim", width)

    def _check_side(self, side: int, part: Anatomy) -> None:
        own = [t for t in self.components.values() if t.stage == part.stage]
        widths = {d.size // d.parts for t in own for d in t.dims if is_matrix(t)}
        if not widths:
            where = f"stage {part.stage} of " if part.stage is not None else ""
            raise UnsupportedFamilyError(
                f"No layer in {where}`{part.model_type}` has a matrix (convolutions are none), so there is nothing that "
                "templates could make. `sws` and `tleg` share its layers as they are."
            )
        head = part.sizes.get("head_dim", 1)
        fits = [
            s
            for s in range(1, min(widths) + 1)
            if all(w % s == 0 for w in widths) and (s % head == 0 or head % s == 0)
        ]
        if side not in fits:
            near = sorted(fits, key=lambda s: abs(s - side))[:3]
            where = f" of stage {part.stage}" if part.stage is not None else ""
            raise InvalidSizeError(
                f"template_size={side} does not divide the widths {sorted(widths)}{where} into whole heads of {head}; "
                f"the nearest that do are {', '.join(map(str, sorted(near)))}."
            )

    def grid(self, info: TensorInfo, shape: Sequence[int] | None = None) -> tuple[int, ...]:
        """Blocks along each dimension of a matrix, or of one of another shape in its place."""
        return tuple(n // self.side_of(info.stage) for n in (shape or info.shape))

    def blocked(self, info: TensorInfo) -> bool:
        """Whether a bias or norm is made of blocks. Others (tables, convolutions) are mixed as a whole, at one width."""
        whole = len(info.dims) == 1 and info.shape[0] % self.side_of(info.stage) == 0
        return whole and info.dims[0].side in ("out", "each")

    def make(self, template: str, info: TensorInfo) -> None:
        depth, side = self.depth_of(info.stage), self.side_of(info.stage)
        if is_matrix(info):
            rows, columns = self.grid(info)
            blocks = depth * rows * columns
            wanted = max(1, round(self.config.template_share * blocks))
            self._asked += wanted * side * side
            count = min(wanted, side * side, blocks)  # more would be redundant
            self.add_shared(template, "templates", count, side, side)
            self.add_scaler(template, "scalers", depth, count, rows, columns)
            return
        shape = (side,) if self.blocked(info) else info.shape
        blocks = info.shape[0] // side if self.blocked(info) else 1
        count = max(1, min(self.config.num_vectors or -(-depth * blocks // 2), depth * blocks, max(1, shape[0])))
        self.add_shared(template, "vectors", count, *shape)
        self.add_scaler(template, "mix", depth * blocks, count)

    def draw(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        if is_matrix(info):
            scale = float(stack.std())
            templates = self.part(template, "templates").normal_(std=scale)
            self.scaler(template, "scalers").normal_(std=len(templates) ** -0.5)
            return
        draw_mixture(self.part(template, "vectors"), self.scaler(template, "mix"), self._blocks(info, stack))

    def fit(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        if not is_matrix(info):
            fit_mixture(self.part(template, "vectors"), self.scaler(template, "mix"), self._blocks(info, stack))
            return
        side, (rows, columns) = self.side_of(info.stage), self.grid(info)
        # Van Loan's rearrangement: every block of every layer is one row, and the best shared rows are the templates
        blocks = stack.reshape(-1, rows, side, columns, side).transpose(2, 3).reshape(-1, side * side)
        coefficients, shared = principal(blocks, len(self.part(template, "templates")))
        self.part(template, "templates").copy_(shared.reshape(-1, side, side))
        scalers = coefficients.reshape(len(stack), rows, columns, -1).permute(0, 3, 1, 2)
        self.scaler(template, "scalers").copy_(scalers)

    def whole_stages(self, stage: int | None = None) -> list[int] | None:
        depth = self.depth_of(stage)
        matrices = [(t, i) for t, i in self.components.items() if is_matrix(i) and i.stage == stage]
        held = min((len(self.part(t, "templates")) // math.prod(self.grid(i)) for t, i in matrices), default=0)
        return stage_of_each_layer(depth, held) if 2 <= held < depth else None

    def fit_scalers(self, template: str, info: TensorInfo, layer: int, gram: Tensor, cross: Tensor) -> None:
        if not is_matrix(info):
            return
        side, (rows, columns) = self.side_of(info.stage), self.grid(info)
        templates = self.part(template, "templates").to(gram)
        count = len(templates)
        inner = gram.reshape(columns, side, columns, side)
        normal = gram.new_zeros(count, columns, count, columns)
        for a in range(columns):
            for b in range(a, columns):  # how alike two templates are to inputs of these two blocks
                seen = (templates @ inner[a, :, b]).reshape(count, -1)
                normal[:, a, :, b] = seen @ templates.reshape(count, -1).T
                normal[:, b, :, a] = normal[:, a, :, b].T
        right = torch.einsum("tij,cjri->tcr", templates, cross.reshape(columns, side, rows, side))
        scalers = self.scaler(template, "scalers")[layer]
        before = scalers.to(gram).transpose(1, 2).reshape(count * columns, rows)
        solved = solve_few(normal.reshape(count * columns, -1), right.reshape(count * columns, rows), before)
        scalers.copy_(solved.reshape(count, columns, rows).transpose(1, 2))

    def fit_vector(self, template: str, info: TensorInfo, layer: int, wanted: Tensor) -> None:
        blocks = wanted.reshape(-1, self.side_of(info.stage)) if self.blocked(info) else wanted[None]
        mix = self.scaler(template, "mix")[layer * len(blocks) : (layer + 1) * len(blocks)]
        mix.copy_(mixed(self.part(template, "vectors"), blocks, mix))

    def picked(self, stage: int | None = None) -> list[int] | None:
        stages = self.whole_stages(stage) if self.config.fit_layers == "picked" else None
        return picked_layers(stages) if stages is not None else None

    def _blocks(self, info: TensorInfo, stack: Tensor) -> Tensor:
        return stack.reshape(-1, self.side_of(info.stage)) if self.blocked(info) else stack

    def rounded(self, sizes: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        ffn = sizes.get("intermediate_size")
        if ffn is not None and "intermediate_size" not in asked:
            sizes["intermediate_size"] = max(1, round(ffn / self.side)) * self.side
        return sizes

    def check_target(self, target: Target) -> None:
        for template, info in target.templates.items():
            old = self.components.get(template)
            if old is None or old.shape == info.shape:
                continue
            odd = next((n for n in info.shape if n % self.side), None)
            if odd is not None:
                low = max(1, odd // self.side) * self.side
                raise InvalidSizeError(
                    f"`{template}` of shape {info.shape} is not made of templates of {self.side}: {odd} is no multiple. The "
                    f"nearest are {low} and {low + self.side}; a smaller template_size at the start reaches more widths."
                )
            if not (is_matrix(old) or self.blocked(old)):
                raise InvalidSizeError(
                    f"`{template}` is neither a product's matrix nor a bias, and exists at shape {old.shape} only: this family's "
                    f"learngene keeps hidden_size={self.anatomy.sizes['hidden_size']}."
                )

    def scaler_rows(self, target: Target) -> dict[str, Tensor]:
        rows = {}
        for template, info in self.components.items():
            part = "scalers" if is_matrix(info) else "mix"
            made = self._scalers(template, info, target)
            rows[f"{path_of(template)}.{part}"] = made if is_matrix(info) else made.reshape(-1, made.shape[-1])
        return rows

    def _scalers(self, template: str, info: TensorInfo, target: Target) -> Tensor:
        """Scalers of a target: (depth, templates, rows, columns) of a matrix, (depth, blocks, vectors) of anything else."""
        shape = target.templates[template].shape if template in target.templates else info.shape
        depth = target.depth_of(info.stage)
        if is_matrix(info):
            made = along_depth(self.scaler(template, "scalers"), depth)
            for dim, new in enumerate(self.grid(info, shape)):
                made = at_width(made, dim + 2, info.dims[dim].parts, new, info.dims[dim].side)
            return made
        mix = self.scaler(template, "mix")
        made = along_depth(mix.reshape(self.depth_of(info.stage), -1, mix.shape[-1]), depth)
        if self.blocked(info):
            made = at_width(made, 1, info.dims[0].parts, self.grid(info, shape)[0], info.dims[0].side)
        return made

    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]:
        scalers = self._scalers(template, info, target)
        if not is_matrix(info):
            made = torch.tensordot(scalers, self.part(template, "vectors"), dims=1)
            return made.reshape(len(made), *(made.shape[2:] if not self.blocked(info) else (-1,))).unbind(0)
        templates = self.part(template, "templates")
        depth, count, rows, columns = scalers.shape
        joined = scalers.transpose(1, 2).reshape(depth, rows, count, columns)
        # one product for all blocks, laid out so that blocks stand where they belong
        flat = joined.permute(0, 1, 3, 2).reshape(-1, count) @ templates.reshape(count, -1)
        side = self.side_of(info.stage)
        made = flat.reshape(depth, rows, columns, side, side).transpose(2, 3)
        return made.reshape(depth, rows * side, columns * side).unbind(0)


__all__ = ["WaveLearngene"]
