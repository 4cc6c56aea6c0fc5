"""Tensors that calibration comes back to: in memory while they are small, beyond that in a temporary folder."""

from __future__ import annotations

import io
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from hf_learngene.errors import CalibrationError


MEMORY = 4 << 20  # bytes that a store keeps out of its folder: all of a small model, next to nothing of a large one


class Store:
    """Values by name, each a tensor or a nest of them. Reading gives a copy, so that what a model does to it is not kept.

    It is a context manager; its folder goes when it is closed, and at the latest with the store itself.

    Args:
        memory (`int`, *optional*): bytes that are kept in memory; the rest goes to disk.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._free = memory
        self._held: dict[str, bytes] = {}
        self._folder: Path | None = None
        self._remove: weakref.finalize | None = None

    def put(self, name: str, value: Any) -> None:
        """Keeps a value, in place of an earlier one of that name.

        Raises:
            CalibrationError: the disk is full, or the temporary folder cannot be written to.
        """
        self._free += len(self._held.pop(name, b""))
        if sum(t.nbytes for t in tensors_in(value)) <= self._free:
            buffer = io.BytesIO()
            torch.save(value, buffer)
            self._held[name] = buffer.getvalue()
            self._free -= len(self._held[name])
            return
        try:
            file = self._made() / name
            file.unlink(missing_ok=True)  # what was read of the earlier value may still lie in that file
            with file.open("wb") as opened:
                torch.save(value, opened)
        except (OSError, RuntimeError) as error:  # torch wraps what the disk says
            raise CalibrationError(
                f"Calibration keeps what it comes back to in a temporary folder, and {tempfile.gettempdir()!r} does not take it: "
                f"{str(error).splitlines()[0]}. Make room there, set TMPDIR to a folder that has some, or give fewer examples."
            ) from error

    def get(self, name: str) -> Any:
        """The value of a name."""
        if name in self._held:
            return torch.load(io.BytesIO(self._held[name]), weights_only=True)
        return torch.load(self._made() / name, mmap=True, weights_only=True)

    def close(self) -> None:
        """Forgets everything and removes the folder."""
        self._held.clear()
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
