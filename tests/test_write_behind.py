"""A file written behind holds what it was given, in order; memory is let go; what fails is raised by whoever writes."""

from __future__ import annotations

import errno
import threading
import weakref

import numpy as np
import pytest

from hf_learngene import write_behind
from hf_learngene.write_behind import WriteBehind


def pieces(*lengths):
    return [np.random.default_rng(n).integers(0, 256, n, dtype=np.uint8) for n in lengths]


def test_what_is_written_is_what_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(write_behind, "ROOM", 100)
    monkeypatch.setattr(write_behind, "PART", 64)
    given = pieces(1, 99, 100, 7, 1000, 3, 64, 65)
    with (tmp_path / "file").open("wb") as file:
        file.write(b"header")
        with WriteBehind(file) as behind:
            for piece in given:
                behind.write(piece.data)
        file.write(b"end")
    assert (tmp_path / "file").read_bytes() == b"header" + b"".join(p.tobytes() for p in given) + b"end"


def hand(file, *lengths, then=None):
    with WriteBehind(file) as behind:
        for piece in pieces(*lengths):
            behind.write(piece.data)
        if then is not None:
            then(behind)


class Slow:
    """A file that writes when it is told to."""

    def __init__(self, error=None):
        self.may, self.written, self.error = threading.Semaphore(0), 0, error

    def tell(self):
        return 0

    def write(self, piece):
        self.may.acquire()
        if self.error is not None:
            raise self.error
        self.written += piece.nbytes


def test_small_pieces_wait_together_and_a_large_one_alone(monkeypatch):
    monkeypatch.setattr(write_behind, "ROOM", 100)
    file, handed = Slow(), []

    def hand():
        with WriteBehind(file) as behind:
            for piece in pieces(60, 40, 500, 1):
                behind.write(piece.data)
                handed.append(piece.nbytes)

    thread = threading.Thread(target=hand)
    thread.start()
    for written, waiting in (
        (0, 2),
        (1, 2),
        (2, 3),
        (3, 4),
    ):  # 500 has room once both before it are written, 1 once 500 is
        for _ in range(written and 1):
            file.may.release()
        deadline = threading.Event()
        for _ in range(500):
            if len(handed) >= waiting:
                break
            deadline.wait(0.01)
        assert len(handed) == waiting
    file.may.release()
    thread.join(10)
    assert file.written == 601


def test_memory_is_free_once_there_is_room_again(monkeypatch):
    monkeypatch.setattr(write_behind, "ROOM", 0)
    file, given = Slow(), []
    for _ in range(50):
        file.may.release()
    with WriteBehind(file) as behind:
        for _ in range(50):
            piece = np.zeros(8, dtype=np.uint8)
            given.append(weakref.ref(piece))
            behind.write(piece.data)
            del piece
            assert sum(one() is not None for one in given) <= 1


def test_what_fails_is_raised_by_the_next_piece_or_at_the_end(monkeypatch):
    monkeypatch.setattr(write_behind, "ROOM", 0)
    for count in (1, 2):
        file = Slow(OSError(errno.ENOSPC, "full"))
        file.may.release()
        with pytest.raises(OSError, match="full"):
            hand(file, *[10] * count)


def test_who_stops_early_is_not_kept_waiting():
    file = Slow()

    def stop(behind):
        threading.Timer(0.1, file.may.release).start()  # the one that is being written
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hand(file, 10, 10, 10, then=stop)
    assert file.written <= 10
