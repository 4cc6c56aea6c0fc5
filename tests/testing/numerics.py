"""How near two results have to be that the same numbers gave in another order: by their dtype, never by a machine.

Bits are the same only where the same operation runs on the same numbers in the same shapes. Products of other shapes, of
weights that lie elsewhere in memory (those that were read from a file), or of another processor add up in another order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


# Relative to the largest entry: about 1e6 roundings in float64, 100 in float32, one or two in half precision.
EXACT = 1e-10
RELATIVE = {torch.float64: EXACT, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def assert_close_for(
    found: Tensor, wanted: Tensor, dtype: torch.dtype | None = None, times: float = 1.0, name: str | None = None
) -> None:
    """Fails unless two tensors are the same up to rounding.

    Args:
        found, wanted: the tensors.
        dtype: what they were computed in; that of `wanted` unless given.
        times: how much more is allowed, where something (a small pivot, a ridge) makes roundings larger.
        name: what they are, for the message.
    """
    floating = wanted.is_floating_point() and wanted.numel() > 0
    allowed = RELATIVE[dtype or wanted.dtype] * times if floating else 0.0
    scale = float(wanted.detach().abs().max()) if floating else 0.0
    torch.testing.assert_close(
        found, wanted, rtol=0, atol=allowed * scale, msg=name and (lambda said: f"{name}: {said}")
    )


def assert_all_close_for(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], dtype: torch.dtype | None = None, times: float = 1.0
) -> None:
    """Fails unless two dicts have the same keys, and the same tensors up to rounding."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert_close_for(found[name], tensor, dtype, times, name)
