"""Jobs in forks: each is as a fresh process is after its imports, and may be killed, hang or take all memory."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm


LIMIT = 60.0  # seconds, of a job that nothing is said of
_SPARE = 4 << 30  # address space beyond the parent's: whoever asks for more gets a MemoryError, and the machine lives


@dataclass(frozen=True)
class Failure:
    """What a job raised.

    Attributes:
        kinds: qualified names of its class and of those above it.
        message: what it says.
    """

    kinds: tuple[str, ...]
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        kinds = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
        return cls(kinds, str(error))

    @property
    def typed(self) -> bool:
        """Whether it is one of the package's own, or what the parser says of an argument."""
        return any(kind.endswith((".errors.LearngeneError", ".exceptions.UsageError")) for kind in self.kinds)

    def __str__(self) -> str:
        return f"{self.kinds[0]}: {' '.join(self.message.split())[:300]}"


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        value: what it returned.
        error: what it raised.
        killed: whether a signal ended it.
        hung: whether it took longer than it may.
        seconds: how long it took.
        peak: bytes of memory that it took beyond its parent.
    """

    value: Any = None
    error: Failure | None = None
    killed: bool = False
    hung: bool = False
    seconds: float = 0
    peak: int = 0


class Child:
    """A job that runs in a fork."""

    def __init__(self, job: Callable[[], Any]) -> None:
        self._resident = _resident()
        self._read, write = os.pipe()
        self.began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._read)
            _work(job, write)
        os.close(write)

    def wait(self, limit: float = LIMIT, kill_after: float | None = None) -> Ended:
        """Waits for the end, and kills it by `kill_after` or `limit` seconds after its start, whichever comes first."""
        end = limit if kill_after is None else min(limit, kill_after)
        parts, late = [], False
        while True:
            left = self.began + end - time.monotonic()
            if select.select([self._read], [], [], max(0.0, left))[0]:
                part = os.read(self._read, 1 << 16)
                if not part:
                    break
                parts.append(part)
            else:
                late = True
                os.kill(self.pid, signal.SIGKILL)
                break
        os.close(self._read)
        _, status, usage = os.wait4(self.pid, 0)
        seconds = time.monotonic() - self.began
        peak = max(0, usage.ru_maxrss * 1024 - self._resident)
        if os.WIFSIGNALED(status) or not parts:
            hung = late and kill_after is None
            return Ended(killed=True, hung=hung, seconds=seconds, peak=peak)
        done, found = pickle.loads(b"".join(parts))
        return Ended(found if done else None, None if done else found, seconds=seconds, peak=peak)


def run(job: Callable[[], Any], limit: float = LIMIT, kill_after: float | None = None) -> Ended:
    """Runs a job in a fork, to its end or until it is killed."""
    return Child(job).wait(limit, kill_after)


def _work(job: Callable[[], Any], write: int) -> None:
    """All that the fork does: the job, then its result; nothing that the parent had begun is ended here."""
    try:
        gc.freeze()  # a Trainer collects garbage after each run, and would copy every page of its parent to look for some
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        # tqdm's own lock is one of all forks: who is killed while a bar is drawn would keep it for ever
        lock = threading.RLock()
        for bar in _kinds(tqdm):
            bar.set_lock(lock)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (size + _SPARE, resource.RLIM_INFINITY))
        try:
            found = pickle.dumps((True, job()))
        except BaseException as error:
            found = pickle.dumps((False, Failure.of(error)))
        with os.fdopen(write, "wb") as pipe:
            pipe.write(found)
    finally:
        os._exit(0)


def _kinds(cls: type) -> list[type]:
    """A class and all below it: each kind of bar may have got a lock of its own."""
    return [cls, *(kind for below in cls.__subclasses__() for kind in _kinds(below))]


def _resident() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()  # noqa: SIM115
