"""Sums over calibration tokens, and the least squares they allow. Memory does not grow with the number of tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from hf_learngene.calibration.shares import as_main, is_shared, total
from hf_learngene.errors import CalibrationError


TOGETHER = 4096  # tokens of one product: a few large ones take less time than many small ones
RIDGE = 1e-3  # of the mean variance: what keeps directions that the tokens hardly show from being trusted
# Inputs that vary by less than this many rounding steps of their own size count as constant: rounding varies them too.
STEPS = 1e3
TINY = 1e-30  # of a level: what a system of nothing but zeros is lifted by
ROWS = 512  # of a symmetric product that are added up at once: what is taken from the system anew takes longer than the sums
_T = TypeVar("_T")


class Moments:
    """Count, means and products of inputs `x` and wanted outputs `y`.

    Products are taken about the mean of the first tokens, in the tokens' own precision (at least float32), and added up in
    float64: the products of inputs that are all nearly the same would leave nothing but rounding, and sums in float32 lose the
    small eigenvalues, which decide what is cheap to remove. Everything stays on the tokens' device. Where processes share the
    examples, what is read is of all of them; nothing can be added after that.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mass = 0  # of the tokens, each as often as it counts
        self._gathered = False
        self._mirrored = True
        self._rounding = 0.0  # of the coarsest dtype seen
        self._waiting: list[tuple[Tensor, Tensor | None, int]] = []
        self._x: _Sum | None = None
        self._y: _Sum | None = None
        self._xx: Tensor | None = None
        self._xy: Tensor | None = None
        self._yy: Tensor | None = None
        self._varying: Tensor | None = None
        self._products: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor | None = None, times: int = 1) -> None:
        """Adds tokens that count so many times: `x` (tokens, inputs), `y` (tokens, outputs), which must not change afterwards."""
        if not len(x):
            return
        if self._gathered:
            raise TypeError("These sums are those of all processes already.")
        self._count += len(x)
        self._mass += times * len(x)
        self._waiting.append((x, y, times))
        if sum(len(x) for x, _, _ in self._waiting) >= TOGETHER:
            self._sum_up()

    def _sum_up(self) -> None:
        """Adds the products of the tokens that wait.

        Raises:
            CalibrationError: an activation that is no finite number.
        """
        if not self._waiting:
            return
        waiting, self._waiting, self._varying, self._products = self._waiting, [], None, []
        x = precise(torch.cat([x for x, _, _ in waiting]))
        roots = _roots([(len(x), times) for x, _, times in waiting], x)
        self._rounding = max(self._rounding, torch.finfo(x.dtype).eps)
        self._x = self._x or _Sum(x)
        x = self._x.add(x, roots)
        if self._xx is None:
            self._xx = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
        _add_squared(self._xx, x)
        self._mirrored = False
        wanted = [y for _, y, _ in waiting if y is not None]
        if wanted:
            y = torch.cat(wanted)
            y = y.to(torch.promote_types(y.dtype, x.dtype))
            self._y = self._y or _Sum(y)
            y = self._y.add(y, roots)
            self._yy = _plus(self._yy, (y * y).sum(0))
            self._xy = _plus(self._xy, x.T @ y.to(x.dtype))
        if not is_shared():  # else one process would part from those that wait for its sums
            self._check()

    def _check(self) -> None:
        check_finite(*(s for s in (self._xx.diagonal() if self._xx is not None else None, self._yy) if s is not None))

    def _gather(self) -> None:
        """Makes the sums those of all processes, about the main one's origin.

        Raises:
            CalibrationError: a process that has no token, beside others that have.
        """
        self._sum_up()
        if not self._mirrored:
            _mirror(_known(self._xx))
            self._mirrored = True
        if self._gathered or not is_shared():
            return
        mine = self._mass
        counts = torch.tensor([self._count, mine, int(mine > 0), 1])
        self._count, self._mass, reached, processes = map(int, total(counts).tolist())
        if 0 < reached < processes:
            raise CalibrationError(
                f"Of {processes} processes {processes - reached} have no token here: give more examples, or fewer processes."
            )
        self._gathered = True
        if not mine or self._x is None or self._xx is None:
            return
        moved, sums = self._x.move(mine)
        self._xx = total(self._xx + _shift(sums, sums, moved, moved, mine))
        if self._y is not None and self._xy is not None and self._yy is not None:
            wanted, wanted_sums = self._y.move(mine)
            self._xy = total(self._xy + _shift(sums, wanted_sums, moved, wanted, mine))
            self._yy = total(self._yy + 2 * wanted_sums * wanted + mine * wanted.pow(2))
        self._check()

    @property
    def count(self) -> int:
        """Number of tokens."""
        self._gather()
        return self._count

    def of_outputs(self, first: int, last: int) -> Moments:
        """The same inputs, beside some of the wanted outputs alone."""
        self._gather()
        part = copy.copy(self)
        part._products = []
        part._y, part._yy = _known(self._y).part(first, last), _known(self._yy)[first:last]
        part._xy = _known(self._xy)[:, first:last]
        return part

    @property
    def mean(self) -> Tensor:
        """Mean of the inputs, (inputs,)."""
        self._gather()
        return _known(self._x).mean(self._mass)

    @property
    def covariance(self) -> Tensor:
        """Mean product of the inputs about their mean, (inputs, inputs)."""
        self._gather()
        if self._varying is None:
            off = _known(self._x).offset(self._mass)
            self._varying = torch.addr(_known(self._xx) / self._mass, off, off, alpha=-1)
        return self._varying

    @property
    def gram(self) -> Tensor:
        """Mean product of the inputs, (inputs, inputs)."""
        return torch.addr(self.covariance, self.mean, self.mean)

    def error(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Mean squared distance of `x @ weight.T + bias` to `y`, summed over outputs."""
        weight = weight.to(self.mean)
        off = weight @ self.mean - self.wanted + (bias.to(weight) if bias is not None else 0.0)
        varying = (weight.T * (self._product(weight) - 2 * self.cross)).sum() + self.spread()
        return varying.clamp_min(0) + off.pow(2).sum()

    def spread(self) -> Tensor:
        """Mean squared length of `y` about its mean, summed over outputs."""
        self._gather()
        off = _known(self._y).offset(self._mass)
        return (_known(self._yy) / self._mass - off.pow(2)).clamp_min(0).sum()

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
        mean, wanted = self.mean, self.wanted
        prior = prior.to(mean)
        gram, right = self.covariance, self.cross - self._product(prior)
        square = gram.diagonal().mean() + mean.pow(2).mean()
        if not with_bias:
            gram, right = self.gram, right + torch.outer(mean, wanted - prior @ mean)
        level = (ridge * torch.maximum(gram.diagonal().mean(), STEPS * self._rounding * square)).clamp_min(TINY)
        move = positive_solve(lifted(gram, level), right)  # (inputs, outputs)
        weight = prior + move.T
        moved = right - level * move if with_bias else right - level * move - torch.outer(mean, mean @ move)
        self._products.append((weight, self._product(prior) + moved))  # for its error
        return weight, (wanted - weight @ mean if with_bias else None)

    def _product(self, weight: Tensor) -> Tensor:
        """Mean product of the inputs about their mean, times the weight's transpose, (inputs, outputs): once for each weight."""
        for known, product in self._products:
            if torch.equal(known, weight):
                return product
        product = self.covariance @ weight.T
        self._products.append((weight.clone(), product))  # a parameter may change in place
        return product

    @property
    def wanted(self) -> Tensor:
        """Mean of the wanted outputs, (outputs,)."""
        self._gather()
        return _known(self._y).mean(self._mass)

    @property
    def cross(self) -> Tensor:
        """Mean product of inputs and wanted outputs about their means, (inputs, outputs)."""
        self._gather()
        x, y = _known(self._x).offset(self._mass), _known(self._y).offset(self._mass)
        return torch.addr(_known(self._xy) / self._mass, x, y, alpha=-1)


class _Sum:
    """A sum of tokens about the mean of the first ones."""

    def __init__(self, first: Tensor) -> None:
        self.origin = first.mean(0)
        self.sum = torch.zeros(first.shape[1], dtype=torch.float64, device=first.device)

    def add(self, values: Tensor, roots: Tensor | None) -> Tensor:
        """The values, which are brought about the origin in their place, added to the sum.

        Where they count several times, each comes back times the root of that, so that products of two count as often.
        """
        about = values.sub_(self.origin)
        if roots is not None:
            about = about.mul_(roots.to(about))
        # as precise as the products, and several times as fast as in float64
        self.sum += about.sum(0) if roots is None else roots.to(about)[:, 0] @ about
        return about

    def move(self, count: int) -> tuple[Tensor, Tensor]:
        """Makes it the sum of all processes about the main one's origin; how far that is, and the sum about the old origin."""
        mine, about = self.origin.double(), self.sum
        self.origin = as_main(self.origin)
        moved = mine - self.origin.double()
        self.sum = total(about + count * moved)
        return moved, about

    def part(self, first: int, last: int) -> _Sum:
        """The sums of some columns."""
        part = copy.copy(self)
        part.origin, part.sum = self.origin[first:last], self.sum[first:last]
        return part

    def offset(self, count: int) -> Tensor:
        """The mean about the origin."""
        return self.sum / count

    def mean(self, count: int) -> Tensor:
        return self.origin.double() + self.offset(count)


def _roots(counts: Sequence[tuple[int, int]], like: Tensor) -> Tensor | None:
    """(tokens, 1), the root of how often each counts; None where every one counts once."""
    if all(times == 1 for _, times in counts):
        return None
    return torch.cat([like.new_full((tokens, 1), math.sqrt(times)) for tokens, times in counts])


def _shift(x: Tensor, y: Tensor, x_moved: Tensor, y_moved: Tensor, count: int) -> Tensor:
    """What the sum of products of `count` tokens grows by when their origins move, from the sums about the old ones."""
    return torch.outer(x, y_moved) + torch.outer(x_moved, y + count * y_moved)


def damp(gram: Tensor, share: float) -> Tensor:
    """`gram` with a share of its mean diagonal added to the diagonal."""
    return lifted(gram, share * gram.diagonal().mean())


def lifted(gram: Tensor, level: Tensor) -> Tensor:
    """`gram` with a level added to its diagonal."""
    raised = gram.clone()
    raised.diagonal().add_(level.clamp_min(TINY))
    return raised


def _add_squared(total: Tensor, x: Tensor) -> None:
    """Adds the upper half of `x.T @ x`, of which the lower one is the mirror image, by blocks of rows."""
    for first in range(0, len(total), ROWS):
        rows = slice(first, first + ROWS)
        total[rows, first:].add_(x[:, rows].T @ x[:, first:])


def _mirror(total: Tensor) -> None:
    """Makes the lower half of a symmetric matrix, made by `_add_squared`, the mirror image of the upper one."""
    for first in range(ROWS, len(total), ROWS):
        total[first:, first - ROWS : first] = total[first - ROWS : first, first:].T


def positive_solve(gram: Tensor, wanted: Tensor) -> Tensor:
    """The solution of a positive definite system; rounding may have made it indefinite where the ridge is tiny."""
    root, failed = torch.linalg.cholesky_ex(gram)
    return torch.linalg.solve(gram, wanted) if bool(failed) else torch.cholesky_solve(wanted, root)


def scarcity(inputs: int, count: int) -> float:
    """How many inputs there are to a token, at least 1: a ridge grows with it."""
    return max(1.0, inputs / max(1, count))


def enough(count: int, rank: int, what: str) -> None:
    """Refuses fewer tokens than there are things to tell apart.

    Raises:
        CalibrationError: `count` is less than `rank`.
    """
    if count < rank:
        raise CalibrationError(
            f"{count} tokens of calibration examples cannot tell {rank} {what} apart; at least {rank} tokens are "
            f"needed, and a few thousand are better. Give about {-(-rank // max(1, count))} times as many examples."
        )


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


def precise(values: Tensor) -> Tensor:
    """Values in their own precision, at least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def normalised(module: nn.Module, x: Tensor, centred: bool) -> Tensor:
    """The values that a norm scales and shifts, in `x`'s own precision, at least float32."""
    eps = float(next((v for n in ("eps", "variance_epsilon") if (v := getattr(module, n, None)) is not None), 0.0))
    x = precise(x)
    if centred:
        x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more.double() if total is None else total.add_(more)


def _known(value: _T | None) -> _T:
    if value is None:
        raise CalibrationError("No token of the calibration examples reached this part of the model.")
    return value


__all__ = ["RIDGE", "Moments", "check_finite", "damp", "enough", "lifted", "normalised", "precise", "scarcity"]
