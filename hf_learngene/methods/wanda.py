"""Wanda: the largest products of weights and activations are kept (arXiv 2306.11695). A ranking people know, with a refit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN
from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.errors import DirectionError, UnknownOptionError
from hf_learngene.methods.base import Paper
from hf_learngene.methods.pruning_method import PruningMethod
from hf_learngene.methods.registry import register_method
from hf_learngene.pruning.activations import Runner
from hf_learngene.pruning.criteria import Scores
from hf_learngene.pruning.moments import check_finite


@register_method
@dataclass(frozen=True)
class Wanda(PruningMethod):
    """Keeps the ffn units, heads and entries of the residual stream with the largest |weight| x norm of what it multiplies.

    It needs `calibration=`, unlabelled. Widths only: the score is one of the inputs of a matrix.

    Args:
        refit (`bool`, *optional*, defaults to `False`): fits what is kept to what the source computes on the examples, as
            `calibrated` does. The paper updates no weights.

    Source: paper, section 3: the score of a weight is |W_ij| * ||X_j||, the norm over all tokens. The paper compares the weights
    of one output and prunes them singly. Here the scores of a whole column are summed over the outputs, since what is pruned are
    inputs: a unit of the second ffn matrix, a head of the attention's output matrix, an entry of the residual stream for all
    matrices that read it.
    """

    name: ClassVar[str] = "wanda"
    paper: ClassVar[Paper | None] = Paper(
        "A Simple and Effective Pruning Approach for Large Language Models", "2306.11695"
    )
    summary: ClassVar[str] = "the largest products of weights and activations, on unlabelled examples (calibration=)"
    needs_examples: ClassVar[bool] = True

    refit: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.refit, bool):
            raise UnknownOptionError(f"refit is True or False; it was {self.refit!r}.")

    @classmethod
    def refits_with(cls, options: Mapping[str, Any]) -> bool:
        return bool(options.get("refit", False))

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        super().check(source, sizes)
        depth = sizes["num_hidden_layers"]
        if depth != source.num_layers:
            raise DirectionError(
                f"wanda ranks the inputs of matrices and says nothing of whole layers (num_hidden_layers {source.num_layers} → "
                f"{depth}). Ask for widths alone; method='shortgpt' ranks layers, method='calibrated' both."
            )

    @torch.no_grad()
    def score(
        self, model: PreTrainedModel, anatomy: Anatomy, examples: Batches, disable_progress: bool = False
    ) -> Scores:
        readers = {
            t.module: t
            for t in anatomy.tensors.values()
            if len(t.dims) == 2 and t.dims[1].side == "in" and (t.dims[1].axis in (FFN, HEADS) or t.reads_norm)
        }
        squares: dict[str, Tensor] = {}
        with Runner(model, anatomy) as runner:
            for number, batch in enumerate(tqdm(examples.batches(), desc="scoring", disable=disable_progress)):
                shown = tokens_shown(batch)
                for module, values in runner.capture(number, batch, inputs=readers).inputs.items():
                    for value in values:
                        more = rows_of(value, shown).double().pow(2).sum(0).cpu()  # (inputs,)
                        squares[module] = squares[module] + more if module in squares else more
        check_finite(*squares.values())
        found = Scores(torch.zeros(anatomy.num_layers), torch.zeros(anatomy.sizes["hidden_size"], dtype=torch.float64))
        for module, info in readers.items():
            if module not in squares:
                continue
            weight = model.get_parameter(info.name).detach().double().cpu().abs()
            score = (weight * squares[module].sqrt()).sum(0)  # (inputs,)
            dim, layer = info.dims[1], anatomy.layer_of(info)
            if dim.axis == HIDDEN:
                found.stream += score.reshape(dim.parts, -1).sum(0)
            elif dim.axis == FFN and layer is not None:
                found.units[layer] = found.units.get(layer, 0) + score
            elif dim.axis == HEADS and layer is not None:  # not ALBERT's embeddings, read through a norm of their own
                found.heads[layer] = found.heads.get(layer, 0) + score
        return found


__all__ = ["Wanda"]
