"""Forward passes on `meta` in less time: what an op gives depends on shapes alone there, and the layers of a model repeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Remembered(TorchDispatchMode):
    """On `meta`, an op gives for tensors of the same shapes, strides and dtypes what it gave before, without running again.

    Ops that write, that share memory with what they are given, or that are given or give anything but plain tensors on meta, run.

    Example:
        >>> with Remembered() as remembered:
        ...     a, b = torch.ones(2, 3, device="meta"), torch.ones(3, 4, device="meta")
        ...     found = {(a @ b).shape for _ in range(5)}
        >>> found
        {torch.Size([2, 4])}
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[tuple[Any, ...], tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        returned = func._schema.returns
        if func._schema.is_mutable or len(returned) != 1 or returned[0].alias_info is not None:
            return func(*args, **named)
        try:
            key = (func, _told(args), _told(tuple(named.items())))
            known = self._made.get(key)
        except TypeError:  # a tensor with values, or what cannot be compared
            return func(*args, **named)
        if known is None:
            made = func(*args, **named)
            if type(made) is Tensor and made.is_meta:
                self._made[key] = made.shape, made.stride(), made.dtype
            return made
        shape, stride, dtype = known
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


def _told(given: Any) -> Any:
    """What an op is given, by what its result depends on.

    Raises:
        TypeError: a tensor of a kind of its own, or with values.
    """
    if isinstance(given, Tensor):
        if type(given) not in (Tensor, torch.nn.Parameter) or not given.is_meta:
            raise TypeError
        return given.shape, given.stride(), given.dtype
    if isinstance(given, (list, tuple)):
        return tuple(map(_told, given))
    return type(given), given  # 1, 1.0 and True are equal, and make other dtypes
