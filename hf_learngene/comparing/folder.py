"""A comparison on disk: its settings, and one small file for each job that is done."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hf_learngene.disk import claim, release, writing
from hf_learngene.errors import OutputError, ResumeError
from hf_learngene.hub.output import real_path


SETTINGS = "settings"
SOURCE = "source"
_HALF = r"\..*\.[0-9a-f]{8}\.partial"
RESULTS = ("comparison.json", "comparison.md", "comparison.png")


class Folder:
    """Where a comparison keeps what is done. A file is whole or absent, whatever interrupts the run.

    Args:
        path: the folder of results; the jobs lie in `jobs` below it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.jobs = self.path / "jobs"

    def check(self) -> None:
        """Refuses a path at which no folder can be. Cheap: call it before anything is loaded.

        Raises:
            OutputError: it is no path for a folder, or a file lies there.
        """
        real_path(self.path)
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"`{self.path}` is a file. Name a folder.")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other comparisons out of the folder, until this one ends or dies.

        Raises:
            OutputError: another run holds it, or nothing can be written there.
        """
        self.check()
        new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = claim(self.path)
        except BlockingIOError as error:
            raise OutputError(
                f"Another run compares into `{self.path}`. Wait until it has ended, or name another folder."
            ) from error
        except OSError as error:
            raise OutputError(f"`{self.path}` cannot be written: {error.strerror or error}.") from error
        try:
            yield
        finally:
            if new:
                with suppress(OSError):  # what an error left empty
                    self.path.rmdir()
            release(lock)

    def open(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Makes the folder, or goes on with the comparison that lies there.

        Args:
            settings: what the results depend on, as plain data.
            overwrite: start over, whatever lies there.

        Raises:
            ResumeError: another comparison lies there; says which settings differ.
            OutputError: nothing can be written there.
        """
        self.check()
        self._sweep()
        found = self.read(SETTINGS)
        if found is None and self.jobs.is_dir() and any(self.jobs.iterdir()):
            raise OutputError(f"`{self.jobs}` holds something else than a comparison. Name another folder.")
        if found is not None and not overwrite:
            other = differences(found, settings)
            if not other:
                return
            # a mistake that showed in the first evaluation can be mended without a word
            if any(file.stem not in (SETTINGS, SOURCE) for file in self.jobs.glob("*.json")):
                raise ResumeError(
                    f"`{self.path}` holds a comparison with other settings ({'; '.join(other[:3])}). Compare into another "
                    "folder, or start over there (overwrite=True, --overwrite)."
                )
        try:
            if found is not None:
                self._start_over()
            self.jobs.mkdir(parents=True, exist_ok=True)
            self.write(SETTINGS, settings)
        except OSError as error:
            raise OutputError(f"`{self.path}` cannot be written: {error.strerror or error}.") from error

    def _start_over(self) -> None:
        """Deletes a comparison, its settings last: without them a run that was killed here would leave strange files."""
        for name in RESULTS:
            (self.path / name).unlink(missing_ok=True)
        for file in self.jobs.iterdir():
            if file.stem != SETTINGS:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        shutil.rmtree(self.jobs)

    def _sweep(self) -> None:
        """Removes the halves of files that a run left which was killed."""
        for folder in (self.path, self.jobs):
            for half in folder.glob(".*.partial"):
                if re.fullmatch(_HALF, half.name) is None or half.is_symlink() or not half.is_file():
                    continue
                with suppress(OSError):  # another run writes it
                    lock = claim(half)
                    half.unlink()
                    release(lock)

    def read(self, name: str) -> dict[str, Any] | None:
        """What was written under a name; None where nothing was, or nothing that can be read."""
        path = self.jobs / f"{name}.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Keeps `content` under a name."""
        write_text(self.jobs / f"{name}.json", json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """As it is written to a file."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """`write_bytes`, for a text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file at one go: it is there with all of `content`, or as it was before.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    lock = None
    with writing(path, "What is done is kept: compare again, and it goes on."):
        try:
            with partial.open("wb") as handle:
                lock = claim(partial)  # so that no other run takes it for litter
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(partial, path)
        finally:
            release(lock)
            with suppress(OSError):  # a disk that does not even delete
                partial.unlink(missing_ok=True)


def job_name(size: str, method: str, seed: int) -> str:
    """A file name for a job: readable, and another one for each job.

    Example:
        >>> job_name("hidden_size=192", "layers 0,2,5", 1)
        'hidden_size-192_layers-0-2-5_seed1_581c44de'
    """
    words = "_".join(re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-")[:40] for part in (size, method))
    digest = hashlib.sha256(json.dumps([size, method, seed]).encode()).hexdigest()[:8]
    return f"{words}_seed{seed}_{digest}"


def plain(value: Any) -> Any:
    """As JSON reads it back: tuples are lists, and what JSON does not know is its text."""
    return json.loads(json.dumps(value, default=str))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The settings that differ, each with both values.

    Example:
        >>> differences({"steps": 100, "seeds": [0]}, {"steps": 200, "seeds": [0]})
        ['steps: 100 there, 200 here']
    """
    old, new = _flat(there), _flat(here)
    names = [n for n in {**old, **new} if old.get(n, ...) != new.get(n, ...)]
    return [f"{n}: {_short(old, n)} there, {_short(new, n)} here" for n in names]


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def _short(settings: Mapping[str, Any], name: str) -> str:
    text = repr(settings[name]) if name in settings else "none"
    return text if len(text) < 60 else f"{text[:60]}…"
