"""Disks and memory: failures to write as typed errors, mapped files given back, and freed memory used again."""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_learngene.errors import CheckpointError, LearngeneError, OutputError, first_line


fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
_FULL = (errno.ENOSPC, errno.EDQUOT)

# of glibc's mallopt, in bytes. By themselves the thresholds rise to 32 MB and twice that, as large blocks are freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_WHOLE, _USUAL_BLOCK = 1 << 30, 32 << 20


def write_failure(
    error: Exception, path: Path, needed: int | None = None, left: str = "Nothing was left behind."
) -> OutputError | None:
    """The typed error for what kept `path` from being written; None for an error of another kind.

    Args:
        error: what was raised.
        path: what was to be written.
        needed: bytes that it takes.
        left: what there is now, in a sentence.
    """
    number = _number(error)
    if number in _FULL:
        return OutputError(_too_small(path, needed, left))
    if number == errno.EFBIG:
        return OutputError(
            f"`{path}` could not be written: a file of it is larger than the file system or a limit (`ulimit -f`) allows. {left}"
        )
    if number is not None or isinstance(error, OSError) or _is_of_torch(error):
        return OutputError(f"`{path}` could not be written: {first_line(error).rstrip('.')}. {left}")
    return None


@contextmanager
def writing(path: Path, left: str = "Nothing was left behind.") -> Iterator[None]:
    """Failures to write `path` in a `with` block, as typed errors.

    Args:
        path: what is written.
        left: what there is after a failure, in a sentence.

    Raises:
        OutputError: the disk is full, read-only, or gives up.
    """
    try:
        yield
    except LearngeneError:
        raise
    except Exception as error:
        if (failure := write_failure(error, path, left=left)) is not None:
            raise failure from error
        raise


def check_space(path: Path, needed: int) -> None:
    """Refuses to begin what does not fit on the disk.

    Raises:
        OutputError: says what is needed and what is free.
    """
    if needed > _free(path):
        raise OutputError(_too_small(path, needed))


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A temporary folder for the time of a `with` block. Those of runs that were killed are deleted first.

    Raises:
        OutputError: there is no place for one, or not enough.
    """
    prefix = f"learngene_{purpose}_"
    try:
        _sweep_scratch(prefix)
        folder, lock = _claimed_scratch(prefix)
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
        finally:
            release(lock)


def _claimed_scratch(prefix: str) -> tuple[tempfile.TemporaryDirectory[str], int | None]:
    """A new temporary folder, and a lock that tells other runs that it is in use."""
    while True:
        folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        with suppress(BlockingIOError, FileNotFoundError):  # another run's sweep came between
            return folder, claim(Path(folder.name))
        folder.cleanup()


def _sweep_scratch(prefix: str) -> None:
    """Deletes this user's temporary folders of runs that are dead."""
    for litter in Path(tempfile.gettempdir()).glob(f"{prefix}*") if fcntl is not None else ():
        with suppress(OSError):  # a run holds it, or it is gone
            if litter.is_symlink() or not litter.is_dir() or litter.stat().st_uid != os.getuid():
                continue
            if (lock := claim(litter)) is not None:
                shutil.rmtree(litter, ignore_errors=True)
                release(lock)


def new_scratch(prefix: str) -> str:
    """A new temporary folder, which the caller deletes.

    Raises:
        OutputError: there is no place for one.
    """
    try:
        return tempfile.mkdtemp(prefix=prefix)
    except OSError as error:
        raise OutputError(_no_scratch(first_line(error))) from error


def _no_scratch(why: str) -> str:
    return f"No temporary folder can be written: {why}. TMPDIR=/a/folder/with/space in the environment names another place."


def _number(error: Exception) -> int | None:
    """The operating system's number of an error."""
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"os error (\d+)", str(error))):  # as libraries in Rust say it
        number = int(found[1])
    return number


def _is_of_torch(error: Exception) -> bool:
    """Whether it is what `torch.save` says of a file that it cannot write: it gives no number of the system."""
    text = str(error)
    writer = "PytorchStreamWriter" in text or "inline_container.cc" in text
    return isinstance(error, RuntimeError) and (writer or re.search(r"File .* cannot be opened", text) is not None)


def _too_small(path: Path, needed: int | None, left: str = "Nothing was written.") -> str:
    free = _free(path)
    needs = "" if needed is None else f"it needs about {needed:,} bytes ({needed / 1e6:,.1f} MB), and "
    return f"There is too little space for `{path}`: {needs}{free:,} bytes ({free / 1e6:,.1f} MB) are free. {left}"


def _free(path: Path) -> int:
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


def claim(path: Path) -> int | None:
    """A descriptor that locks a file or a folder until it is released or the process ends; None where nothing can be locked.

    Raises:
        BlockingIOError: another run holds it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # some network file systems
        os.close(descriptor)
        return None
    return descriptor


def release(descriptor: int | None) -> None:
    """Gives up what `claim` gave."""
    if descriptor is not None:
        os.close(descriptor)


def check_files(folder: str | os.PathLike[str]) -> None:
    """Refuses a checkpoint with pipes or devices for files: who reads them may wait for ever, or until memory is full.

    Args:
        folder: of the checkpoint; nothing is said of a name that is no folder here.

    Raises:
        CheckpointError: names the file.
    """
    for path in sorted(Path(folder).iterdir()) if os.path.isdir(folder) else ():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise CheckpointError(
                f"`{path}` is no file but a pipe, a device or a socket. Put a file there, or take it away."
            )


def sync_files(folder: Path) -> None:
    """Writes all files of a folder through to the disk: a rename of it must not reach the disk before them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())


@contextmanager
def reused_memory() -> Iterator[None]:
    """Keeps the memory of freed tensors for the next ones, for the time of a `with` block; without glibc nothing is done.

    Otherwise glibc gives every large block back as soon as it is free, and the system clears each page of the next one anew:
    more time than the arithmetic takes where one tensor is made after the other.
    """
    try:
        libc = ctypes.CDLL(None)
        tune, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    for largest in (_WHOLE, _USUAL_BLOCK):  # some versions refuse more than the one that they come to by themselves
        if tune(_MMAP_THRESHOLD, largest):
            break
    tune(_TRIM_THRESHOLD, _WHOLE)
    try:
        yield
    finally:
        tune(_MMAP_THRESHOLD, _USUAL_BLOCK)
        tune(_TRIM_THRESHOLD, 2 * _USUAL_BLOCK)
        trim(0)


class MappedFiles:
    """The files that this process has mapped by now, as loading a checkpoint does, and the memory that reading them took.

    What is read of a mapped file stays in memory for as long as there is some. Whoever reads tensors once, one after the
    other, gives each back, and needs no more than the largest. Elsewhere than on Linux neither call does anything.
    """

    # of madvise: whole stretches are read at once; pages are dropped, and come from the file when they are read again
    _WILLNEED, _DONTNEED = 3, 4

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        try:
            lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._advise = ctypes.CDLL(None).madvise
        self._advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for line in lines:
            span, mode, _, _, inode = line.split()[:5]
            if inode != "0" and mode.startswith("r") and mode[2:] == "-p":
                start, end = (int(place, 16) for place in span.split("-"))
                self._ranges.append((start, end))

    def fetch(self, tensor: Tensor) -> None:
        """Begins to read a tensor that lies in a mapped file; page by page, as it would be read otherwise, takes far longer."""
        self._tell(tensor, self._WILLNEED)

    def give_back(self, tensor: Tensor) -> None:
        """Gives back the memory of a tensor that lies in a mapped file and was never written to; any other is left alone."""
        self._tell(tensor, self._DONTNEED)

    def _tell(self, tensor: Tensor, advice: int) -> None:
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if not any(first <= start and end <= last for first, last in self._ranges):
            return
        # pages that it shares with its neighbours are left alone
        start, end = -(-start // self._page) * self._page, end // self._page * self._page
        if end > start:
            self._advise(start, end - start, advice)
