"""Least squares for the gains and shifts of a norm: one straight line for each entry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_learngene.calibration.shares import total


@dataclass(frozen=True)
class Gains:
    """Solved gains and shifts of a norm.

    Attributes:
        gain: (width,).
        shift: (width,), or None for a norm without.
        before: mean squared distance to what was wanted, as a share of its spread, with the old gains and shifts.
        after: the same with these.
    """

    gain: Tensor
    shift: Tensor | None
    before: float
    after: float


class Lines:
    """Sums over tokens for wanted outputs `y` ≈ gain * z + shift, each entry by itself, of normalised inputs `z`."""

    def __init__(self) -> None:
        self.count = 0
        self._mass = 0  # of the tokens, each as often as it counts
        self._sums: Tensor | None = None

    def add(self, z: Tensor, y: Tensor, times: int = 1) -> None:
        """Adds tokens that count so many times: `z` and `y`, both (tokens, width)."""
        z, y = z.double(), y.double()
        more = times * torch.stack([z.sum(0), y.sum(0), (z * z).sum(0), (z * y).sum(0), (y * y).sum(0)])
        self._sums = more if self._sums is None else self._sums + more
        self.count += len(z)
        self._mass += times * len(z)

    def solve(self, gain: Tensor, shift: Tensor | None, ridge: float) -> Gains:
        """The gains and shifts that bring `z` nearest to `y`, kept near `gain` where `z` hardly varies.

        Args:
            gain: (width,), the old one.
            shift: (width,), the old one, or None for a norm without.
            ridge: in units of `z`'s mean square, which a norm makes 1.
        """
        if self._sums is None:
            return Gains(gain, shift, 0.0, 0.0)
        sums = total(self._sums)
        self.count, self._mass = map(int, total(torch.tensor([self.count, self._mass])).tolist())
        z, y, zz, zy, yy = sums / self._mass
        gain, shift = gain.to(z), shift.to(z) if shift is not None else None
        spread = (yy - y * y).sum().clamp_min(1e-30)

        def error(gain: Tensor, shift: Tensor | None) -> float:
            b = shift if shift is not None else torch.zeros_like(gain)
            return float((gain**2 * zz + b**2 + yy + 2 * gain * b * z - 2 * gain * zy - 2 * b * y).sum() / spread)

        if shift is None:
            new, level = (zy + ridge * gain) / (zz + ridge), None
        else:
            new = (zy - z * y + ridge * gain) / (zz - z * z + ridge)
            level = y - new * z
        return Gains(new, level, error(gain, shift), error(new, level))


__all__ = ["Gains", "Lines"]
