"""What a narrower residual stream holds of the source's: directions of it, or entries where its norms leave no choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, NormInfo, TensorInfo
from hf_learngene.anatomy.types import HIDDEN
from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.calibration.few import few
from hf_learngene.calibration.shares import total
from hf_learngene.calibration.weights import times_of
from hf_learngene.errors import CalibrationError
from hf_learngene.pruning.activations import Activations, Runner
from hf_learngene.pruning.gains import Lines
from hf_learngene.pruning.moments import RIDGE, Moments, enough, normalised, precise
from hf_learngene.pruning.optimal_brain_surgeon import kept_units, leaving_order
from hf_learngene.pruning.rotations import mixed_map, stream_map


TINY = 1e-6  # ridge of fits that are only measured
TRIED = 128  # examples on which directions and entries are held side by side, at most
PER_ENTRY = 8  # tokens for each entry of the stream, at most


class StreamMap(NamedTuple):
    """What a narrower residual stream holds: either entries or directions.

    Attributes:
        coordinates: entries of it that are kept, ascending.
        rotation: (source width, target width).
        gains: whether norms keep gains and shifts of their own beside a rotation (post-norm), which are to be refitted.
    """

    coordinates: Tensor | None
    rotation: Tensor | None
    gains: bool


def rotates_residual_stream(anatomy: Anatomy) -> bool:
    """Whether the residual stream may be rotated: only norms see it, and their scale can be moved into what reads them."""
    norms = _norms(anatomy)
    if anatomy.norms_that_need_multiples() or anatomy.tied_readers or any(n.writes_stream for n in norms):
        return False
    return all(t.kind == "linear" and (t.reads_norm or t.layer is None) for t in _readers(anatomy))


def rotates_between_norms(anatomy: Anatomy) -> bool:
    """Whether a post-norm stream may be rotated if its norms are refitted: nothing but norms and matrices sees its entries.

    Norms that scale each entry by itself do not commute with a rotation, so something is lost; see `ResidualStream`.
    """
    norms = _norms(anatomy)
    if (
        not anatomy.post_norm
        or anatomy.tied_readers
        or not all(n.centred and n.reads <= {"writer", "norm"} for n in norms)
    ):
        return False
    return all(t.kind == "linear" and (t.reads_norm or t.layer is None) for t in _readers(anatomy))


class NormProducts:
    """Mean product of the stream at every norm: normalised before it where it is to be turned, else as norms hand it on.

    Args:
        model: the source.
        anatomy: its own.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.model, self.norms = model, _norms(anatomy)
        self.before = rotates_residual_stream(anatomy)
        self._moments = Moments()
        self._tokens = torch.zeros(len(self.norms), dtype=torch.long)

    def wanted(self, norms: Sequence[NormInfo]) -> tuple[list[str], list[str]]:
        """Modules whose inputs, and whose outputs, a pass is to keep for these norms."""
        names = [n.name for n in norms]
        return (names, []) if self.before else ([], names)

    def add(self, norms: Sequence[NormInfo], found: Activations, batch: Mapping[str, Tensor]) -> None:
        """Adds what a pass over a batch kept of these norms."""
        shown = tokens_shown(batch)
        for norm in norms:
            for value in (found.inputs if self.before else found.outputs).get(norm.name, ()):
                if self.before:
                    value = normalised(self.model.get_submodule(norm.name), value, norm.centred)
                rows = rows_of(value, shown)
                self._moments.add(rows, times=times_of(batch))
                self._tokens[self.norms.index(norm)] += len(rows)

    def total(self, width: int) -> Tensor:
        """The sum of the products over all tokens and norms.

        Raises:
            CalibrationError: too few tokens to tell so many directions apart.
        """
        if not self._moments.count:
            raise CalibrationError("No norm of the model was reached by the calibration examples.")
        enough(int(total(self._tokens).max()), width, "directions of the stream")
        return self._moments.gram * self._moments.count


class ResidualStream:
    """The residual stream of a source on its calibration examples, and what a narrower one holds of it.

    Args:
        model: the source.
        anatomy: its own.
        examples: calibration examples.
        ridge: of the refit that follows.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, examples: Batches, ridge: float = RIDGE) -> None:
        self.model, self.anatomy, self.examples, self.ridge = model, anatomy, examples, ridge
        self.norms = _norms(anatomy)

    def narrowed(self, width: int, disable_progress: bool = False, seen: NormProducts | None = None) -> StreamMap:
        """What a stream of `width` holds.

        Pre-norm: principal directions. Post-norm: directions or entries, whichever leaves less on the examples.

        Args:
            width: of the narrower stream.
            disable_progress: no progress bar.
            seen: what norms were given in a pass that was made anyway; default: a pass is made for it.
        """
        rotates = rotates_residual_stream(self.anatomy)
        statistics = (seen or self.looked(disable_progress)).total(width).cpu()  # what follows is of the width alone
        if rotates:
            return StreamMap(None, stream_map(statistics, width, all(n.centred for n in self.norms)), False)
        coordinates = self._coordinates(statistics, width)
        if not rotates_between_norms(self.anatomy):
            return StreamMap(coordinates, None, False)
        picked = torch.eye(len(statistics), dtype=statistics.dtype)[:, coordinates]
        rotation = mixed_map(statistics, width, self._gains())
        entries, directions = self._lost([picked, rotation])
        return StreamMap(coordinates, None, False) if entries <= directions else StreamMap(None, rotation, True)

    def looked(self, disable_progress: bool) -> NormProducts:
        """What the norms are given, in a pass of its own."""
        products = NormProducts(self.model, self.anatomy)
        with Runner(self.model, self.anatomy) as runner:
            for number, batch in enumerate(tqdm(self.examples.batches(), desc="looking", disable=disable_progress)):
                found = runner.capture(number, batch, *products.wanted(products.norms))
                products.add(products.norms, found, batch)
        return products

    def ordered(self, disable_progress: bool = False, seen: NormProducts | None = None) -> Tensor:
        """Entries of the stream, those first that would stay longest."""
        width = self.anatomy.sizes["hidden_size"]
        statistics = (seen or self.looked(disable_progress)).total(width).cpu()
        return leaving_order(statistics / statistics.diagonal().mean(), self._reads(statistics), ridge=self.ridge)

    def _coordinates(self, statistics: Tensor, width: int) -> Tensor:
        """Entries of the stream that stay: those that what reads it can spare least, the rest made up for by the kept ones."""
        reads = self._reads(statistics)
        return kept_units(statistics / statistics.diagonal().mean(), reads, width, ridge=self.ridge)

    def _reads(self, statistics: Tensor) -> Tensor:
        """A matrix that reads the stream as all that reads it do together, (width, width)."""
        reads = torch.zeros_like(statistics, device=self.model.device)
        for info in _readers(self.anatomy):
            if len(info.dims) == 2 and info.dims[1].axis == HIDDEN and info.dims[1].parts == 1:
                weight = self.model.get_parameter(info.name).detach().double()
                gram = weight.T @ weight
                reads += gram / gram.diagonal().mean().clamp_min(1e-30)
        # the residual carries every entry on as it is
        reads = reads.cpu()
        reads += torch.eye(len(reads), dtype=reads.dtype) * reads.diagonal().mean()
        return torch.linalg.cholesky(reads).T

    def _gains(self) -> Tensor:
        """Mean gain of each entry over the norms, (width,)."""
        return torch.stack([self._parameter(n, "weight") for n in self.norms]).mean(0)

    def _parameter(self, norm: NormInfo, name: str) -> Tensor:
        return self.model.get_parameter(f"{norm.name}.{name}").detach().double().cpu()

    def _lost(self, maps: Sequence[Tensor]) -> list[float]:
        """For each map of the stream, what norms of the narrower model lose of what the source's hand on, as a share of it.

        A norm of the narrower model is given what the source's is given, mapped. Its gains and shifts are fitted to what the
        source's hands on, mapped, and that is read back: both distances count, for one stays in the stream and the other is
        what readers miss.
        """
        sums = [{n.name: (Lines(), Moments()) for n in self.norms} for _ in maps]
        names = [n.name for n in self.norms]
        with Runner(self.model, self.anatomy) as runner:
            for number, batch in enumerate(few(self.examples, self.model, TRIED, PER_ENTRY * maps[0].shape[0])):
                shown = tokens_shown(batch)
                found = runner.capture(number, batch, inputs=names, outputs=names)
                for norm in self.norms:
                    module = self.model.get_submodule(norm.name)
                    for given, handed in zip(found.inputs[norm.name], found.outputs[norm.name], strict=True):
                        x, y = (precise(rows_of(v, shown)) for v in (given, handed))
                        for matrix, fits in zip(maps, sums, strict=True):
                            lines, moments = fits[norm.name]
                            seen = normalised(module, x @ matrix.to(x), norm.centred)
                            lines.add(seen, y @ matrix.to(y))
                            moments.add(seen, y)
        lost = []
        for matrix, fits in zip(maps, sums, strict=True):
            left = 0.0
            for lines, moments in fits.values():
                nothing = torch.zeros(matrix.shape[1], dtype=matrix.dtype)
                weight, bias = moments.solve(torch.zeros_like(matrix), True, TINY)
                spread = float(moments.spread().clamp_min(1e-30))
                left += lines.solve(nothing, nothing, TINY).after + float(moments.error(weight, bias)) / spread
            lost.append(left / len(self.norms))
        return lost


def _norms(anatomy: Anatomy) -> list[NormInfo]:
    return [n for n in anatomy.norms if n.axis == HIDDEN]


def _readers(anatomy: Anatomy) -> list[TensorInfo]:
    return [t for t in anatomy.tensors.values() if any(d.axis == HIDDEN and d.side == "in" for d in t.dims)]


__all__ = ["NormProducts", "ResidualStream", "StreamMap", "rotates_between_norms", "rotates_residual_stream"]
