"""Operations on files, one by one: what a command does to them is counted, and at one of them something happens."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError


_OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.link", "os.symlink")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Points:
    """Counts what is done to files below some folders, in the fork that it is made in: it cannot be taken out again.

    Files that are written by compiled code count as one operation at their beginning, and as one when half of them is there.

    Args:
        roots: the folders.
        at: the number of the operation, from 0, at which `act` is called.
        act: is given the name of the operation and the path.
    """

    def __init__(self, *roots: Path, at: int | None = None, act: Callable[[str, str], Any] | None = None) -> None:
        self.names: list[str] = []
        self._roots, self._at, self._act = tuple(os.path.realpath(root) for root in roots), at, act
        self._inside = False
        self._patch()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, given: tuple) -> None:
        if self._inside:
            return
        if event == "open":
            mode, flags = given[1], given[2]
            if not (set("wax+") & set(mode) if isinstance(mode, str) else (flags or 0) & _WRITES):
                return
        elif event not in _OPERATIONS:
            return
        path = os.fsdecode(given[0]) if isinstance(given[0], (str, bytes, os.PathLike)) else ""
        # what is named relative to an open folder is what shutil.rmtree deletes
        relative = event in ("os.remove", "os.rmdir") and not os.path.isabs(path)
        if relative or os.path.abspath(path).startswith(self._roots):
            self.reach(event.removeprefix("os."), path)

    def reach(self, name: str, path: str) -> None:
        """One operation, about to be done."""
        self.names.append(name)
        if self._act is not None and len(self.names) - 1 == self._at:
            self._inside = True
            try:
                self._act(name, path)
            finally:
                self._inside = False

    def _patch(self) -> None:
        fsync, serialize, save = os.fsync, safetensors.torch.serialize_file, torch.save

        def own_fsync(descriptor: int) -> None:
            self.reach("fsync", f"/proc/self/fd/{descriptor}")
            fsync(descriptor)

        def own_serialize(tensors: Any, filename: Any, *given: Any, **named: Any) -> None:
            self.reach("weights", str(filename))
            serialize(tensors, filename, *given, **named)
            self._half("half the weights", filename)

        def own_save(content: Any, file: Any, *given: Any, **named: Any) -> None:
            path = isinstance(file, (str, os.PathLike))
            if path:
                self.reach("states", str(file))
            save(content, file, *given, **named)
            if path:
                self._half("half the states", file)

        os.fsync, safetensors.torch.serialize_file, torch.save = own_fsync, own_serialize, own_save

    def _half(self, name: str, file: Any) -> None:
        """The moment at which half of a file is there: seen from here, it was cut there."""
        if self._act is not None and len(self.names) == self._at:
            self._inside = True
            os.truncate(file, os.path.getsize(file) // 2)
            self._inside = False
        self.reach(name, str(file))


def die(name: str, path: str) -> None:
    """An act: the process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # a signal may take a moment


def failing(number: int) -> Callable[[str, str], None]:
    """An act: the operation fails with an error of the system, or as the library that does it tells of one."""

    def fail(name: str, path: str) -> None:
        if name in ("weights", "half the weights"):
            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
        if name in ("states", "half the states"):
            raise RuntimeError(
                "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"
                if name.startswith("half")
                else f"File {path} cannot be opened."
            )
        raise OSError(number, os.strerror(number), path)

    return fail
