"""Tensors that calibration comes back to: in memory while they are small, beyond that in a temporary folder."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import torch
from torch import Tensor

from hf_learngene.errors import CalibrationError


CONTAINER = Path("/sys/fs/cgroup")  # what the kernel tells a process of its own group (cgroup 2)
SHARE = 0.125  # of the memory that is free: a shrink keeps several stores, beside two models and their sums


class Store:
    """Values by name, each a tensor or a nest of them. Both ways are copies: what is done to either later on is not kept.

    What is given away (`own`) and what is lent (`lent`) is not copied: nobody may change it.

    It is a context manager; its folder goes when it is closed, and at the latest with the store itself.

    Args:
        memory (`int`, *optional*): bytes that are kept where the tensors are, in memory or on an accelerator; the rest goes to
            disk. Defaults to a share of what is free.
    """

    def __init__(self, memory: int | None = None) -> None:
        self._memory = memory
        self._free: dict[torch.device, int] = {}
        self._held: dict[str, Any] = {}
        self._folder: Path | None = None
        self._remove: weakref.finalize | None = None

    def put(self, name: str, value: Any, own: bool = False) -> None:
        """Keeps a value, in place of an earlier one of that name; `own` says that nobody else holds it.

        Raises:
            CalibrationError: the disk is full, or the temporary folder cannot be written to.
        """
        if self.offer(name, value, own):
            return
        try:
            file = self._made() / name
            with file.open("wb") as opened:
                torch.save(value, opened)
        except (OSError, RuntimeError) as error:  # torch wraps what the disk says
            raise CalibrationError(
                f"Calibration keeps what it comes back to in a temporary folder, and {tempfile.gettempdir()!r} does not take it: "
                f"{str(error).splitlines()[0]}. Make room there, set TMPDIR to a folder that has some, or give fewer examples."
            ) from error

    def offer(self, name: str, value: Any, own: bool = False) -> bool:
        """Keeps a value, in place of an earlier one, if memory has room for it; whether it has."""
        self.drop(name)
        sizes = _sizes(value)
        for device in sizes.keys() - self._free.keys():
            self._free[device] = room(device) if self._memory is None else self._memory
        if any(size > self._free[device] for device, size in sizes.items()):
            return False
        self._held[name] = value if own else _copied(value)
        for device, size in sizes.items():
            self._free[device] -= size
        return True

    def drop(self, name: str) -> None:
        """Forgets the value of a name, if there is one."""
        if name in self._held:
            for device, size in _sizes(self._held.pop(name)).items():
                self._free[device] += size
        elif self._folder is not None:
            (self._folder / name).unlink(missing_ok=True)  # a new file: what was read of this one may still lie in it

    def get(self, name: str) -> Any:
        """The value of a name."""
        return _copied(self._held[name]) if name in self._held else self.lent(name)

    def lent(self, name: str) -> Any:
        """The value of a name, to look at."""
        if name in self._held:
            return self._held[name]
        return torch.load(self._made() / name, mmap=True, weights_only=True)

    def close(self) -> None:
        """Forgets everything and removes the folder."""
        self._held.clear()
        self._free.clear()
        if self._remove is not None:
            self._remove()
        self._folder = self._remove = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _made(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="learngene_"))
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


def room(device: torch.device) -> int:
    """Bytes that one store may take of a device: a share of its free memory."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    return int(SHARE * free)


def _free_memory() -> int:
    """Bytes that are free: of the machine, or of the container, where that has a limit of its own."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no container, or none with a limit ("max")
        limit = int((CONTAINER / "memory.max").read_text())
        used = int((CONTAINER / "memory.current").read_text())
        # files that were read count as used, and are given up first
        lines = (CONTAINER / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        free = min(free, max(0, limit - used + cached))
    return free


def _sizes(value: Any) -> dict[torch.device, int]:
    sizes: dict[torch.device, int] = {}
    for tensor in tensors_in(value):
        sizes[tensor.device] = sizes.get(tensor.device, 0) + tensor.nbytes
    return sizes


def _copied(value: Any) -> Any:
    """The same nest with tensors of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_copied(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in a nest of mappings, lists and tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


__all__ = ["Store", "tensors_in"]
