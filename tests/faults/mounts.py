"""File systems of a process of its own: one that is full, and folders that not even root can write to."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from faults import forks


_NEW_NAMESPACE, _READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
_c = ctypes.CDLL(None, use_errno=True)


def unshare() -> None:
    """What is mounted from now on is seen by this process alone, and gone with it."""
    _check(_c.unshare(_NEW_NAMESPACE))
    _mount(None, Path("/"), None, _RECURSIVE | _PRIVATE)


def mount_tmpfs(folder: Path, size: int) -> None:
    """An empty file system of so many bytes."""
    _mount("tmpfs", folder, "tmpfs", 0, f"size={size}")


def read_only(folder: Path) -> None:
    """Makes a folder one that nobody can write to."""
    _mount(str(folder), folder, None, _BIND | _RECURSIVE)
    _mount(None, folder, None, _BIND | _REMOUNT | _READ_ONLY)


def can_mount() -> bool:
    """Whether this process may do so."""
    return forks.run(unshare).error is None


def _mount(source: str | None, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, str(target), kind, data)]
    _check(_c.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
