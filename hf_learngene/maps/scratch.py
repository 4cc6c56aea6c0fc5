"""Memory for what is made on the way to a tensor, used again for the next one."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Scratch:
    """Rooms by name, each as large as what was largest in it. New memory would have to be cleared by the system page by page.

    Example:
        >>> scratch = Scratch()
        >>> room = scratch.room("noise", (2, 3), torch.float32)
        >>> scratch.holds(room[0]), scratch.holds(scratch.room("noise", (3,), torch.float32)), scratch.holds(room.clone())
        (True, True, False)
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, torch.dtype], Tensor] = {}

    def room(self, name: str, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU that holds anything; what was in the room of that name before is lost."""
        count = math.prod(shape)
        flat = self._rooms.get((name, dtype))
        if flat is None or len(flat) < count:
            with torch.inference_mode(False):  # it may be written to in any mode
                flat = self._rooms[name, dtype] = torch.empty(count, dtype=dtype, device="cpu")
        return flat[:count].view(tuple(shape))

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in one of the rooms, so that it does not last."""
        place = tensor.untyped_storage().data_ptr()
        return any(flat.untyped_storage().data_ptr() == place for flat in self._rooms.values())
