"""What the functions of nearly every layer give on `meta`.

Torch works out their results there by rules in Python, about a millisecond for each norm: nearly all the time of a plain pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


MAKERS: frozenset[Callable[..., Any]] = frozenset(
    {
        torch.arange, torch.as_tensor, torch.asarray, torch.bartlett_window, torch.blackman_window, torch.empty,
        torch.empty_permuted, torch.empty_quantized, torch.empty_strided, torch.eye, torch.fft.fftfreq, torch.fft.rfftfreq,
        torch.full, torch.hamming_window, torch.hann_window, torch.kaiser_window, torch.linspace, torch.logspace,
        torch.nested.nested_tensor, torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.range,
        torch.scalar_tensor, torch.sparse_bsc_tensor, torch.sparse_bsr_tensor, torch.sparse_compressed_tensor,
        torch.sparse_coo_tensor, torch.sparse_csc_tensor, torch.sparse_csr_tensor, torch.tensor, torch.tril_indices,
        torch.triu_indices, torch.zeros,
    }
)  # fmt: skip
"""What makes a tensor on the default device where it is given none."""


def run(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`func(*args, **kwargs)`; where that is on `meta` and fits, a result of the right shape at once.

    Example:
        >>> import torch
        >>> x, weight = torch.empty(2, 3, 8, device="meta"), torch.empty(5, 8, device="meta")
        >>> run(functional.linear, (x, weight), {}).shape
        torch.Size([2, 3, 5])
    """
    quick = _QUICK.get(func)
    if quick is None:
        return func(*args, **kwargs)
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    plain = all(t.is_meta and t.dtype == tensors[0].dtype for t in tensors)
    found = quick(*args, **kwargs) if plain else None
    return func(*args, **kwargs) if found is None else found


def arange(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """`torch.arange(*args, **kwargs)` where `meta` is the device, in a twentieth of the time.

    Example:
        >>> arange((0, 10, 4), {}).shape, arange((3.0,), {"dtype": torch.float64}).dtype
        (torch.Size([3]), torch.float64)
    """
    known = {"dtype", "device"} >= kwargs.keys() and kwargs.get("device") is None
    if not known or not all(type(a) in (int, float) for a in args):
        return torch.arange(*args, **kwargs)
    start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
    dtype = kwargs.get("dtype")
    if dtype is None:
        dtype = torch.int64 if all(isinstance(a, int) for a in args) else torch.get_default_dtype()
    count = math.ceil((end - start) / step) if step else 0
    if count <= 0:
        return torch.arange(*args, **kwargs)
    return torch.empty(count, dtype=dtype, device="meta")


def _each(input: Tensor) -> Tensor | None:
    return input.new_empty(input.shape) if input.is_floating_point() else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    fits = input.dim() > 1 and weight.dim() == 2 and input.shape[-1] == weight.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        return None  # torch says best what is wrong
    return input.new_empty(*input.shape[:-1], weight.shape[0])


def _with(input: Tensor, other: Any, **options: Any) -> Tensor | None:
    number = isinstance(other, (int, float)) and input.is_floating_point()
    return input.new_empty(input.shape) if number else None


def _outer(input: Tensor, vec2: Tensor) -> Tensor | None:
    return input.new_empty(input.shape[0], vec2.shape[0]) if input.dim() == vec2.dim() == 1 else None


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    own = tuple(normalized_shape)
    fits = input.shape[-len(own) :] == own and all(t is None or tuple(t.shape) == own for t in (weight, bias))
    return input.new_empty(input.shape) if fits else None


def _gelu(input: Tensor, approximate: str = "none") -> Tensor:
    return input.new_empty(input.shape)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
) -> Tensor | None:
    if attn_mask is not None or query.dim() != 4 or key.shape != value.shape:
        return None
    fits = query.shape[:2] == key.shape[:2] and query.shape[3] == key.shape[3]
    return query.new_empty(query.shape) if fits else None


_QUICK: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    functional.linear: _linear,
    functional.layer_norm: _layer_norm,
    functional.gelu: _gelu,
    functional.scaled_dot_product_attention: _attention,
    torch.cos: _each,
    torch.sin: _each,
    Tensor.cos: _each,
    Tensor.sin: _each,
    Tensor.outer: _outer,
    torch.outer: _outer,
    **dict.fromkeys((Tensor.div, Tensor.mul, Tensor.__rpow__, Tensor.__rdiv__), _with),
}
