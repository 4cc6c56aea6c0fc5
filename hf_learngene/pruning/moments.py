"""Sums over calibration tokens, and the least squares they allow. Memory does not grow with the number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_learngene.errors import CalibrationError


RIDGE = 1e-3  # of the mean diagonal: what keeps directions that the tokens hardly show from being trusted


@dataclass
class Moments:
    """Counts, sums and products of inputs `x` and wanted outputs `y`, in float64.

    Sums in float32 lose the small eigenvalues of a product of thousands of tokens, and they decide what is cheap to remove.
    """

    count: int = 0
    x: Tensor | None = None
    xx: Tensor | None = None
    y: Tensor | None = None
    xy: Tensor | None = None
    yy: Tensor | None = None

    def add(self, x: Tensor, y: Tensor | None = None) -> None:
        """Adds tokens: `x` (tokens, inputs), `y` (tokens, outputs).

        Products of one batch are taken in the tokens' own precision (at least float32) and added up in float64: a batch has a
        few hundred terms, and what they lose lies far below the ridge.

        Raises:
            CalibrationError: an activation that is no finite number.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        sums, products = x.sum(0, dtype=torch.float64), (x.T @ x).double()
        self.count += len(x)
        self.x, self.xx = _plus(self.x, sums), _plus(self.xx, products)
        if y is not None:
            wanted = y.double()
            squares = wanted.pow(2).sum(0)
            self.y, self.yy = _plus(self.y, wanted.sum(0)), _plus(self.yy, squares)
            self.xy = _plus(self.xy, (x.T @ y.to(x.dtype)).double())
            check_finite(squares)
        check_finite(products.diagonal())

    @property
    def gram(self) -> Tensor:
        """Mean product of the inputs, (inputs, inputs)."""
        return _known(self.xx) / max(1, self.count)

    @property
    def mean(self) -> Tensor:
        return _known(self.x) / max(1, self.count)

    @property
    def covariance(self) -> Tensor:
        """Of the inputs about their mean."""
        return self.gram - torch.outer(self.mean, self.mean)

    def error(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Mean squared distance of `x @ weight.T + bias` to `y`, summed over outputs."""
        n = max(1, self.count)
        weight = weight.double()
        b = bias.double() if bias is not None else torch.zeros(len(weight), dtype=torch.float64)
        xx, xy = self.gram, _known(self.xy) / n
        mean, y, yy = self.mean, _known(self.y) / n, _known(self.yy) / n
        inner = (weight @ xx * weight).sum(1) + 2 * b * (weight @ mean) + b * b
        return (inner - 2 * (weight.T * xy).sum(0) - 2 * b * y + yy).clamp_min(0).sum()

    def spread(self) -> Tensor:
        """Mean squared length of `y` about its mean, summed over outputs."""
        n = max(1, self.count)
        return (_known(self.yy) / n - (_known(self.y) / n).pow(2)).clamp_min(0).sum()

    def solve(self, prior: Tensor, with_bias: bool, ridge: float = RIDGE) -> tuple[Tensor, Tensor | None]:
        """The weight, and bias, that bring `x` nearest to `y`, kept near `prior` where the tokens say little.

        Minimises |x W^T + b - y|^2 + ridge * mean(diag) * |W - prior|^2; the bias is free. Where `prior` is right already,
        nothing moves.

        Args:
            prior: (outputs, inputs).
            with_bias: whether there is a bias; without one nothing is centred.
            ridge: as a share of the inputs' mean square.

        Returns:
            weight (outputs, inputs) and bias (outputs,) or None, float64.
        """
        n = max(1, self.count)
        prior = prior.double()
        mean, wanted = self.mean, _known(self.y) / n
        gram, cross = self.gram, _known(self.xy) / n
        if with_bias:
            gram = gram - torch.outer(mean, mean)
            cross = cross - torch.outer(mean, wanted)
        damped = damp(gram, ridge)
        move = torch.linalg.solve(damped, cross - gram @ prior.T)
        weight = prior + move.T
        return weight, (wanted - weight @ mean if with_bias else None)


def damp(gram: Tensor, share: float) -> Tensor:
    """`gram` with a share of its mean diagonal added to the diagonal."""
    size = (share * gram.diagonal().mean()).clamp_min(1e-30)
    return gram + size * torch.eye(len(gram), dtype=gram.dtype)


def check_finite(*sums: Tensor) -> None:
    """Refuses sums over activations that are not numbers.

    Raises:
        CalibrationError: some are not finite.
    """
    if not all(bool(torch.isfinite(s).all()) for s in sums):
        raise CalibrationError(
            "The model's activations on the calibration examples are not all finite. Look for an example that it cannot take "
            "(all padding, NaN pixels), or load the model in float32."
        )


def normalised(module: nn.Module, x: Tensor, centred: bool) -> Tensor:
    """What a norm scales and shifts."""
    eps = float(next((v for n in ("eps", "variance_epsilon") if (v := getattr(module, n, None)) is not None), 0.0))
    x = x.double()
    if centred:
        x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def _plus(sum_: Tensor | None, more: Tensor) -> Tensor:
    return more.cpu() if sum_ is None else sum_.add_(more.cpu())


def _known(value: Tensor | None) -> Tensor:
    if value is None:
        raise CalibrationError("No token of the calibration examples reached this part of the model.")
    return value


__all__ = ["RIDGE", "Moments", "check_finite", "damp", "normalised"]
