"""Sums over calibration tokens, and the least squares they allow. Memory does not grow with the number of tokens."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from hf_learngene.errors import CalibrationError


RIDGE = 1e-3  # of the mean variance: what keeps directions that the tokens hardly show from being trusted
# Inputs that vary by less than this many rounding steps of their own size count as constant: rounding varies them too.
STEPS = 1e3
_T = TypeVar("_T")


class Moments:
    """Count, means and products of inputs `x` and wanted outputs `y`.

    Products are taken about the mean of the first tokens, in the tokens' own precision (at least float32), and added up in
    float64: the products of inputs that are all nearly the same would leave nothing but rounding, and sums in float32 lose the
    small eigenvalues, which decide what is cheap to remove.
    """

    def __init__(self) -> None:
        self.count = 0
        self._rounding = 0.0  # of the coarsest dtype seen
        self._x: _Sum | None = None
        self._y: _Sum | None = None
        self._xx: Tensor | None = None
        self._xy: Tensor | None = None
        self._yy: Tensor | None = None

    def add(self, x: Tensor, y: Tensor | None = None) -> None:
        """Adds tokens: `x` (tokens, inputs), `y` (tokens, outputs).

        Raises:
            CalibrationError: an activation that is no finite number.
        """
        if not len(x):
            return
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        self.count += len(x)
        self._rounding = max(self._rounding, torch.finfo(x.dtype).eps)
        self._x = self._x or _Sum(x)
        x = self._x.add(x)
        products = (x.T @ x).double()
        self._xx = _plus(self._xx, products)
        if y is not None:
            y = y.to(torch.promote_types(y.dtype, x.dtype))
            self._y = self._y or _Sum(y)
            y = self._y.add(y)
            squares = y.double().pow(2).sum(0)
            self._yy = _plus(self._yy, squares)
            self._xy = _plus(self._xy, (x.T @ y.to(x.dtype)).double())
            check_finite(squares)
        check_finite(products.diagonal())

    @property
    def mean(self) -> Tensor:
        """Mean of the inputs, (inputs,)."""
        return _known(self._x).mean(self.count)

    @property
    def covariance(self) -> Tensor:
        """Mean product of the inputs about their mean, (inputs, inputs)."""
        off = _known(self._x).offset(self.count)
        return _known(self._xx) / self.count - torch.outer(off, off)

    @property
    def gram(self) -> Tensor:
        """Mean product of the inputs, (inputs, inputs)."""
        return self.covariance + torch.outer(self.mean, self.mean)

    def error(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Mean squared distance of `x @ weight.T + bias` to `y`, summed over outputs."""
        weight = weight.double()
        off = weight @ self.mean - self._wanted + (bias.double() if bias is not None else 0.0)
        varying = (weight @ self.covariance * weight).sum() - 2 * (weight.T * self._cross).sum() + self.spread()
        return varying.clamp_min(0) + off.pow(2).sum()

    def spread(self) -> Tensor:
        """Mean squared length of `y` about its mean, summed over outputs."""
        off = _known(self._y).offset(self.count)
        return (_known(self._yy) / self.count - off.pow(2)).clamp_min(0).sum()

    def solve(self, prior: Tensor, with_bias: bool, ridge: float = RIDGE) -> tuple[Tensor, Tensor | None]:
        """The weight, and bias, that bring `x` nearest to `y`, kept near `prior` where the tokens say little.

        Minimises |x W^T + b - y|^2 + ridge * v * |W - prior|^2, where v is the inputs' mean variance and the bias is free. Where
        `prior` is right already, nothing moves; neither where the inputs are constant but for rounding.

        Args:
            prior: (outputs, inputs).
            with_bias: whether there is a bias; without one nothing is centred.
            ridge: as a share of the inputs' mean variance (without a bias: mean square).

        Returns:
            weight (outputs, inputs) and bias (outputs,) or None, float64.
        """
        prior, mean, wanted = prior.double(), self.mean, self._wanted
        gram, cross = self.covariance, self._cross
        square = gram.diagonal().mean() + mean.pow(2).mean()
        if not with_bias:
            gram, cross = gram + torch.outer(mean, mean), cross + torch.outer(mean, wanted)
        level = torch.maximum(gram.diagonal().mean(), STEPS * self._rounding * square)
        damped = gram + _diagonal(ridge * level, gram)
        move = torch.linalg.solve(damped, cross - gram @ prior.T)  # (inputs, outputs)
        weight = prior + move.T
        return weight, (wanted - weight @ mean if with_bias else None)

    @property
    def _wanted(self) -> Tensor:
        """Mean of the wanted outputs, (outputs,)."""
        return _known(self._y).mean(self.count)

    @property
    def _cross(self) -> Tensor:
        """Mean product of inputs and wanted outputs about their means, (inputs, outputs)."""
        x, y = _known(self._x), _known(self._y)
        return _known(self._xy) / self.count - torch.outer(x.offset(self.count), y.offset(self.count))


class _Sum:
    """A sum of tokens about the mean of the first ones."""

    def __init__(self, first: Tensor) -> None:
        self.origin = first.mean(0)
        self.sum = torch.zeros(first.shape[1], dtype=torch.float64)

    def add(self, values: Tensor) -> Tensor:
        """The values about the origin, added to the sum."""
        about = values - self.origin
        self.sum += about.sum(0, dtype=torch.float64).cpu()
        return about

    def offset(self, count: int) -> Tensor:
        """The mean about the origin."""
        return self.sum / count

    def mean(self, count: int) -> Tensor:
        return self.origin.double().cpu() + self.offset(count)


def damp(gram: Tensor, share: float) -> Tensor:
    """`gram` with a share of its mean diagonal added to the diagonal."""
    return gram + _diagonal(share * gram.diagonal().mean(), gram)


def _diagonal(value: Tensor, like: Tensor) -> Tensor:
    return value.clamp_min(1e-30) * torch.eye(len(like), dtype=like.dtype)


def check_finite(*sums: Tensor) -> None:
    """Refuses sums over activations that are not numbers.

    Raises:
        CalibrationError: some are not finite.
    """
    if not all(bool(torch.isfinite(s).all()) for s in sums):
        raise CalibrationError(
            "The model's activations on the calibration examples are not all finite. Look for an example that it cannot take "
            "(all padding, pixels that are not normalised), or load the model in float32."
        )


def normalised(module: nn.Module, x: Tensor, centred: bool) -> Tensor:
    """The values that a norm scales and shifts, float64."""
    eps = float(next((v for n in ("eps", "variance_epsilon") if (v := getattr(module, n, None)) is not None), 0.0))
    x = x.double()
    if centred:
        x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more.cpu() if total is None else total.add_(more.cpu())


def _known(value: _T | None) -> _T:
    if value is None:
        raise CalibrationError("No token of the calibration examples reached this part of the model.")
    return value


__all__ = ["RIDGE", "Moments", "check_finite", "damp", "normalised"]
