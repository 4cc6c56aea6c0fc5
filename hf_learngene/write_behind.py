"""A file written from a thread of its own, while what comes next is made."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from types import TracebackType
from typing import BinaryIO, Self


ROOM = 16 << 20  # bytes that may wait
PART = 16 << 20  # so many are written, and then begin their way to the disk
_START = 2  # of sync_file_range: begin to write what is changed, and wait for nothing


class WriteBehind:
    """What it is given to write, a thread writes, in order. Small pieces wait together, a large one alone.

    Writing lets other threads run, and so does waiting for a disk. What is written begins its way to the disk at once, where the
    system can be told so (Linux); by itself it would begin when the file is complete and is to be there.

    Args:
        file: opened for writing, nobody else writes to it meanwhile.

    Raises:
        OSError: what kept an earlier piece from being written, when the next is given or at the end.

    Example:
        >>> with open(getfixture("tmp_path") / "two", "wb") as file, WriteBehind(file) as behind:
        ...     behind.write(memoryview(b"one, "))
        ...     behind.write(memoryview(b"two"))
        >>> (getfixture("tmp_path") / "two").read_bytes()
        b'one, two'
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._pieces: deque[tuple[memoryview, Callable[[], object] | None]] = deque()
        self._waiting = 0  # bytes, of the piece that is being written too
        self._changed = Condition()
        self._error: Exception | None = None
        self._ended = False
        self._place = self._started = file.tell()
        self._thread = Thread(target=self._run, name="write behind", daemon=True)

    def write(self, piece: memoryview, then: Callable[[], object] | None = None) -> None:
        """Takes a piece, once there is room for it. Nobody may change it before it is written; `then` is called afterwards."""
        size = piece.nbytes
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._waiting + size <= max(ROOM, size))
            if self._error is not None:
                raise self._error
            self._pieces.append((piece.cast("B"), then))
            self._waiting += size
            self._changed.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            if error is not None:  # what is half written is of no use
                self._pieces.clear()
            self._changed.notify_all()
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._ended)
                if not self._pieces:
                    return
                piece, then = self._pieces.popleft()
            size = piece.nbytes
            try:
                self._put(piece)
                if then is not None:
                    then()
            except Exception as error:
                with self._changed:
                    self._error = error.with_traceback(None)  # its frames hold the piece
                    self._pieces.clear()
                    self._changed.notify_all()
                return
            finally:
                del piece  # its memory is free before anybody is told so
            with self._changed:
                self._waiting -= size
                self._changed.notify_all()

    def _put(self, piece: memoryview) -> None:
        for start in range(0, piece.nbytes, PART):
            part = piece[start : start + PART]
            self._file.write(part)
            self._place += part.nbytes
            if self._place - self._started >= PART:
                self._file.flush()
                start_writing(self._file.fileno(), self._started, self._place - self._started)
                self._started = self._place


def start_writing(descriptor: int, start: int, length: int) -> None:
    """Has the system begin to write a stretch of a file to the disk; elsewhere than on Linux nothing is done."""
    try:
        begin = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):
        return
    begin(ctypes.c_int(descriptor), ctypes.c_int64(start), ctypes.c_int64(length), ctypes.c_uint(_START))


__all__ = ["WriteBehind"]
