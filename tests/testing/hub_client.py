"""The other side of `testing.hub`: a process with the real client, whose jobs are functions of the tests."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from testing import ROOT
from testing.hub import OWNER


PERSON, HOST = "anna-of-the-tests", "annas-machine"  # whose account and machine the client's are


class JobError(Exception):
    """What a job raised: the names of its class and of those above it, and what it says."""

    def __init__(self, kinds: list[str], message: str, trace: str) -> None:
        super().__init__(trace or message)
        self.kinds, self.message = kinds, message


def online(endpoint: str, home: Path) -> dict[str, str]:
    """The environment of a process that is online, with the Hub at `endpoint` and a person's folders below `home`."""
    own = home / PERSON
    own.mkdir(parents=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    return {
        **kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "2",
        "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}",
        "HOME": str(own), "USER": PERSON, "LOGNAME": PERSON,
    }  # fmt: skip


class Client:
    """A process that is online, with the Hub at `endpoint`; each job is a function run in a fork of it.

    A fork is as a fresh process is after its imports and a first resize, without the seconds that these take.
    """

    def __init__(self, endpoint: str, home: Path) -> None:
        self.home, self._caches = home, itertools.count()
        self.environment = online(endpoint, home)
        command = [sys.executable, "-c", "from testing import hub_client; hub_client.work()"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=self.environment, stdin=pipe, stdout=pipe)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # it has nothing to put away
        self._process.communicate()

    def cache(self) -> Path:
        """An empty one."""
        return self.home / f"cache-{next(self._caches)}"

    def run(
        self, job: Callable[..., Any], *given: Any, login: str | None = OWNER, cache: Path | None = None, **named: Any
    ) -> Any:
        """What a function of a test module returns, with a token and a cache (default: an empty one) of its own.

        Raises:
            JobError: it raised something.
        """
        module = sys.modules[job.__module__]
        pickle.dump((module.__name__, module.__file__), self._process.stdin)
        pickle.dump((job, given, named, login, str(cache or self.cache())), self._process.stdin)
        self._process.stdin.flush()
        done, result = pickle.load(self._process.stdout)
        if not done:
            raise JobError(*result)
        return result


def work() -> None:
    """Runs jobs until there are no more. The first brings the module that it is defined in, and so its imports."""
    from testing.hub_jobs import warm_up

    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a job prints is no result
    warm_up()
    while True:
        try:
            _load_module(*pickle.load(sys.stdin.buffer))
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        child = os.fork()
        if not child:
            results.write(_result(*job))
            results.flush()
            os._exit(0)
        if status := os.waitpid(child, 0)[1]:
            results.write(pickle.dumps((False, (["Died"], f"wait status {status}", ""))))
            results.flush()


def _load_module(name: str, file: str) -> None:
    """Makes a test module known under the name that pytest gave it: it lies in no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def _result(job: Callable[..., Any], given: tuple, named: dict[str, Any], login: str | None, cache: str) -> bytes:
    from huggingface_hub import constants

    signal.alarm(120)
    socket.gethostname = platform.node = lambda: HOST
    if login is not None:
        os.environ["HF_TOKEN"] = login
    constants.HF_HUB_CACHE = cache
    constants.DOWNLOAD_CHUNK_SIZE = 4096  # a broken download keeps whole chunks: of 10 MB, which tiny files never fill
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # the client waits half a minute in all before it gives up
    try:
        return pickle.dumps((True, job(*given, **named)))
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return pickle.dumps((False, (kinds, str(error), traceback.format_exc())))
