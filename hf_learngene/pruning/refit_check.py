"""A check of the refit on its own examples: it must not leave the model further from the source than plain selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.calibration.few import ENOUGH, few
from hf_learngene.calibration.shares import total
from hf_learngene.calibration.store import Store
from hf_learngene.errors import RefitError
from hf_learngene.pruning.activations import Runner
from hf_learngene.pruning.correspondence import Correspondence
from hf_learngene.pruning.running import output_of
from hf_learngene.pruning.sites import RefitSite


logger = logging.get_logger(__name__)

Fits = TypeVar("Fits")
FACTORS = (1.0, 1e2, 1e4)  # of the ridge; the larger ones where the model would be worse than before the refit
CHECKED = 16  # examples: few beside the passes of the refit
NOTHING = 1e-6  # squared relative error: so near to the source, worse or better is rounding


@dataclass
class RefitCheck:
    """Distance of a pruned model to its source on a few of its calibration examples.

    Attributes:
        correspondence: of target to source.
        target, target_anatomy: the pruned model, and its anatomy.
        examples: calibration examples.
        writer: the last matrix that writes the residual stream before a norm; the stream is compared there where the outputs
            of a narrower model cannot be.
    """

    correspondence: Correspondence
    target: PreTrainedModel
    target_anatomy: Anatomy
    examples: Batches
    writer: RefitSite | None
    _seen: list[tuple[dict[str, Tensor], Tensor]] | None = field(default=None, init=False, repr=False)

    def error(self) -> float:
        """Squared distance to the source as a share of the source's squares; infinite where the target overflows."""
        distance = squares = 0.0
        for batch, outputs in self._checked():
            for found, wanted in self._pairs(batch, outputs):
                distance += float((found - wanted).pow(2).sum())
                squares += float(wanted.pow(2).sum())
        distance, squares = total(torch.tensor([distance, squares], dtype=torch.float64)).tolist()
        error = distance / max(squares, 1e-30)
        return error if math.isfinite(error) else math.inf

    def _checked(self) -> list[tuple[dict[str, Tensor], Tensor]]:
        """Examples, with the source's outputs, which is asked once."""
        if self._seen is None:
            source = self.correspondence.source
            self._seen = [(batch, output_of(source, batch)) for batch in few(self.examples, source, CHECKED, ENOUGH)]
        return self._seen

    def _pairs(self, batch: Mapping[str, Tensor], wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(found, wanted) outputs, or streams before the last norm where outputs are of another width, its gains moved on."""
        found = output_of(self.target, batch)
        selection = self.correspondence.selection
        of_width = (
            wanted.shape[-1] == self.correspondence.anatomy.sizes["hidden_size"]
        )  # logits of other labels are not
        if found.shape != wanted.shape and of_width and (selection.rotation is None or selection.gains):
            wanted = selection.residual(wanted)
        if found.shape == wanted.shape:
            yield found, wanted
        elif self.writer is not None and self.writer.norm_after is not None:
            norm, source_norm = self.writer.norm_after
            shown = tokens_shown(batch)
            with (
                Runner(self.target, self.target_anatomy) as target,
                Runner(self.correspondence.source, self.correspondence.anatomy) as source,
            ):
                ours = target.capture(0, batch, inputs=[norm]).inputs[norm]
                theirs = source.capture(0, batch, inputs=[source_norm]).inputs[source_norm]
            for a, b in zip(ours, theirs, strict=False):
                yield (
                    rows_of(a, shown).double(),
                    self.correspondence.selection.residual(rows_of(b, shown)).to(torch.float64),
                )


def acceptable(before: float, after: float) -> bool:
    """Whether a refit left its model as near to the source as it was before, or as near as rounding can tell."""
    return after <= max(before, NOTHING) and math.isfinite(after)


@torch.no_grad()
def nearer(
    fit: Callable[[float], Fits],
    error: Callable[[], float],
    weights: Mapping[str, Tensor],
    ridge: float,
    store: Store,
    instead: str,
) -> Fits:
    """A refit that does not leave the model further from its source; where it would, it is done again with a larger ridge.

    Args:
        fit: ridge -> what it left, having changed `weights` in place.
        error: squared relative distance of the model to its source as it stands.
        weights: parameters that the refit changes, by name; between two tries they are put back.
        ridge: the first to be tried.
        store: keeps the weights as they were.
        instead: what to do where no ridge helps, for the error.

    Raises:
        RefitError: no ridge helps; the weights are as they were.
    """
    store.put("selected", dict(weights))
    before = after = error()
    for tried in (factor * ridge for factor in FACTORS):
        fitted = fit(tried)
        after = error()
        if acceptable(before, after):
            return fitted
        logger.info("Refitted at ridge %g, the relative error is %.1e; it was %.1e.", tried, after, before)
        for name, value in store.get("selected").items():
            weights[name].copy_(value)
    raise RefitError(
        "Refitted on these examples, the model is further from its source than before: its squared relative error is "
        f"{after:.1e}, and was {before:.1e}, on the examples themselves and at every ridge up to {tried:g}. Give examples of "
        f"the model's own kind, normalised as it expects and different from one another; {instead}."
    )


__all__ = ["RefitCheck", "acceptable", "nearer"]
