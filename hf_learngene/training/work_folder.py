"""The folder of a training that may be interrupted: its settings, its checkpoints, and one run at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hf_learngene.disk import writing
from hf_learngene.errors import OutputError, ResumeError
from hf_learngene.training.checkpoints import PARTIAL
from hf_learngene.training.resuming import checkpoints_of, fault_of, last_whole_checkpoint, read_json, write_json


ASKED = "asked.json"
RESULT = "result.json"
_KEPT = "What was trained so far is kept: the same call goes on from there."


class WorkFolder:
    """A hidden folder beside an output, in which the run that makes it keeps what the same run goes on from.

    Args:
        output (`Path`): the real path of the folder that is being made.

    Example:
        >>> work = WorkFolder(getfixture("tmp_path") / "vit-wave")
        >>> work.path.name
        '.vit-wave.training'
        >>> with work.held():
        ...     work.begin({"steps": "10"}, start_over=False)
        ...     work.remove()
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(f".{output.name}.training")
        self._gone = output.with_name(f".{output.name}.training.gone")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other runs for the same output out, until this one ends or dies.

        Raises:
            OutputError: another run holds it, or nothing can be written there.
        """
        new = [folder for folder in self.path.parents if not folder.exists()]
        file = self.path.with_name(f"{self.path.name}.lock")
        with writing(self.output):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(file)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise OutputError(
                    f"Another run is making `{self.output}`. Wait until it has ended, or name another output."
                ) from error
        try:
            with writing(self.output, _KEPT):
                self._sweep()
            yield
        finally:
            if not checkpoints_of(self.path):  # nothing to go on with
                self.remove()
            with suppress(OSError):  # Windows deletes no open file
                file.unlink()  # before the lock is given up, or it could be another run's by then
            lock.release()
            for folder in new:  # what an error left empty
                with suppress(OSError):
                    folder.rmdir()

    def begin(self, asked: Mapping[str, str], start_over: bool) -> Path | None:
        """The last whole checkpoint of a run with the same settings, or None; what cannot be gone on with is deleted.

        Args:
            asked (`Mapping`): all settings that change the result.
            start_over (`bool`): delete a run with other settings instead of refusing to go on with it.

        Raises:
            ResumeError: a run was begun with other settings, which its checkpoints do not tell; says which differ.
            OutputError: nothing can be written.
        """
        with writing(self.output, _KEPT):
            return self._begun(asked, start_over)

    def _begun(self, asked: Mapping[str, str], start_over: bool) -> Path | None:
        begun = read_json(self.path / ASKED)
        if not isinstance(begun, dict):  # nothing vouches for what lies here
            begun = {}
            self.remove()
        other = sorted(name for name in begun.keys() | asked.keys() if begun.get(name) != asked.get(name))
        if other and not start_over and self.last_checkpoint() is not None:
            shown = ", ".join(f"{name}: {begun.get(name)} then, {asked.get(name)} now" for name in other[:3])
            raise ResumeError(
                f"A run for this output was begun with other settings ({shown}). Give the same to go on with it, another OUTPUT, "
                "or --overwrite to start over."
            )
        if other:
            self.remove()
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / ASKED, dict(asked))
        return self.last_checkpoint()

    def last_checkpoint(self) -> Path | None:
        """The last whole checkpoint."""
        return last_whole_checkpoint(self.path)

    def note_result(self, folder: Path) -> None:
        """Notes which folder will be renamed to the output: that this was done, a later run then knows."""
        write_json(self.path / RESULT, {"inode": os.stat(folder).st_ino})

    def remove(self) -> None:
        """Deletes the folder, at once: half of it would tell a later run something else."""
        with suppress(FileNotFoundError):
            os.rename(self.path, self._gone)
        shutil.rmtree(self._gone, ignore_errors=True)

    def _sweep(self) -> None:
        """Deletes what a run left that was killed: half checkpoints, or everything where its result is at its place."""
        shutil.rmtree(self._gone, ignore_errors=True)
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
        for checkpoint in checkpoints_of(self.path):
            if fault_of(checkpoint) is not None:
                shutil.rmtree(checkpoint, ignore_errors=True)
        written = read_json(self.path / RESULT)
        if isinstance(written, dict) and self.output.exists() and os.stat(self.output).st_ino == written.get("inode"):
            self.remove()
