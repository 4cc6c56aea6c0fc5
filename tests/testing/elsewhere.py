"""A device that is not the CPU, on the CPU: tensors on it mix with no others, and every copy back is counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _DummyDeviceGuard


DEVICE = torch.device("privateuseone", 0)  # torch leaves it to whoever wants one
torch._C._acc.register_python_privateuseone_device_guard(_DummyDeviceGuard())
if not hasattr(torch, "privateuseone"):
    torch._register_device_module("privateuseone", _DummyBackendModule())
aten = torch.ops.aten
_INDEX = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor)


class Elsewhere(torch.Tensor):
    """A tensor on the device, held on the CPU."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(function, args, kwargs or {}, None)


class Watched(TorchDispatchMode):
    """Makes the device, and counts elements that are copied from it to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.back: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(function, args, kwargs or {}, self.back)


def carried_out(function: Any, args: Any, kwargs: dict[str, Any], back: Counter[tuple[int, ...]] | None) -> Any:
    """One operation, on what the tensors hold."""
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    ours = [isinstance(t, Elsewhere) for t in tensors]
    wanted = kwargs.get("device")
    here = any(ours) if wanted is None else torch.device(wanted).type == DEVICE.type
    moves = function in (aten._to_copy.default, aten.copy_.default)
    if function == aten.copy_.default:
        here = ours[0]
    if any(ours) and not moves and function not in _INDEX and wanted is None:
        strangers = [t for t, mine in zip(tensors, ours, strict=True) if not mine and t.dim()]
        if strangers:
            raise RuntimeError(
                f"{function}: expected all tensors to be on one device; {strangers[0].shape} is on the CPU"
            )
    if moves and back is not None and not here and ours[-1]:
        back[tuple(tensors[-1].shape)] += 1
    if wanted is not None and here:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner = tree_map(lambda t: t.held if isinstance(t, Elsewhere) else t, (args, kwargs))
    found = function(*inner[0], **inner[1])
    if function._schema.is_mutable and args and isinstance(args[0], torch.Tensor) and isinstance(found, torch.Tensor):
        return args[0]
    return tree_map(lambda t: Elsewhere(t) if isinstance(t, torch.Tensor) else t, found) if here else found


__all__ = ["DEVICE", "Elsewhere", "Watched"]
