"""Failures to write to a disk, as typed errors: too little space, too large a file, no place for temporary folders."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_learngene.errors import LearngeneError, OutputError, first_line


_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_failure(error: Exception, path: Path, needed: int | None = None) -> OutputError | None:
    """The typed error for what kept `path` from being written; None for an error of another kind."""
    number = _number(error)
    if number in _FULL:
        return OutputError(_too_small(path, needed))
    if number == errno.EFBIG:
        return OutputError(
            f"`{path}` could not be written: a file of it is larger than the file system or a limit (`ulimit -f`) allows. "
            "Nothing was left behind."
        )
    if number is not None or isinstance(error, OSError):
        return OutputError(f"`{path}` could not be written: {first_line(error)}. Nothing was left behind.")
    return None


def check_space(path: Path, needed: int) -> None:
    """Refuses to begin what does not fit on the disk.

    Raises:
        OutputError: says what is needed and what is free.
    """
    if needed > _free(path):
        raise OutputError(_too_small(path, needed))


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A temporary folder for the time of a `with` block.

    Raises:
        OutputError: there is no place for one, or not enough.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=f"learngene_{purpose}_")
    except OSError as error:
        raise OutputError(_no_scratch(first_line(error))) from error
    with folder as path:
        try:
            yield Path(path)
        except LearngeneError:
            raise
        except Exception as error:  # some libraries have errors of their own for a full disk, which are no OSError
            if _number(error) not in (*_FULL, errno.EFBIG):
                raise
            raise OutputError(_no_scratch(first_line(error))) from error


def _no_scratch(why: str) -> str:
    return f"No temporary folder can be written: {why}. TMPDIR=/a/folder/with/space in the environment names another place."


def _number(error: Exception) -> int | None:
    """The operating system's number of an error."""
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"os error (\d+)", str(error))):  # as libraries in Rust say it
        number = int(found[1])
    return number


def _too_small(path: Path, needed: int | None) -> str:
    free = _free(path)
    needs = "" if needed is None else f"it needs about {needed:,} bytes ({needed / 1e6:,.1f} MB), and "
    return f"There is too little space for `{path}`: {needs}{free:,} bytes ({free / 1e6:,.1f} MB) are free. Nothing was written."


def _free(path: Path) -> int:
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


def sync_files(folder: Path) -> None:
    """Writes all files of a folder through to the disk: a rename of it must not reach the disk before them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
