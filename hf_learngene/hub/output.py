"""Output folders: whole or absent, whatever interrupts the writing, and never in the place of what is still needed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_learngene.disk import claim, release, sync_files, write_failure
from hf_learngene.errors import LearngeneError, OutputError, first_line
from hf_learngene.hub.sentence import module_folders


_PARTIAL, _OLD = "partial", "old"


def check_output(output: str | os.PathLike, overwrite: bool = False, *needed: str | os.PathLike | None) -> Path:
    """The real path to write to. Cheap: call it before anything is loaded.

    What earlier runs left beside it that were killed is put in order: half-written folders go, and a model that was moved
    aside for a successor that never came is back at its place.

    Args:
        output: the folder to write.
        overwrite: whether a saved model may be replaced.
        *needed: what is read meanwhile (a source, data): folders and files that must not be deleted with `output`.

    Raises:
        OutputError: it exists already, is no folder of a saved model, holds what is needed, or cannot be written.
    """
    path = real_path(output)
    _sweep(path)
    if path.exists():
        if not path.is_dir():
            raise OutputError(f"`{output}` is a file. Name a folder that does not exist yet.")
        if not overwrite:
            raise OutputError(
                f"The folder `{output}` exists already. Name another, or replace it (overwrite=True, --overwrite)."
            )
        _check_replaceable(path, output)
        for place in needed:
            if place is not None and os.path.exists(place) and Path(os.path.realpath(place)).is_relative_to(path):
                raise OutputError(
                    f"`{place}` lies in `{output}`, and replacing that would delete it. Name another folder."
                )
    above = _existing(path.parent)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"`{output}` cannot be made: `{above}` is not a folder that you can write to.")
    return path


def real_path(output: str | os.PathLike) -> Path:
    """The path of an output, with all links followed.

    Raises:
        OutputError: it is no text, as a card or a list of files has to be able to hold it, longer than a path may be, or a link
            that leads back to itself.
    """
    try:
        os.fspath(output).encode()
        path = Path(os.path.realpath(output))
        _existing(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{os.fspath(output)!r} is no path for a folder: {first_line(error)}.") from error
    if looped := next((p for p in (path, *path.parents) if p.is_symlink()), None):  # any other was followed
        raise OutputError(f"`{looped}` is a link that leads back to itself. Delete it, or name another folder.")
    return path


def _check_replaceable(path: Path, output: str | os.PathLike) -> None:
    """Replacing deletes everything below; a mistyped home folder, or a run's checkpoints, must not be lost to it."""
    inside = sorted(path.iterdir())
    if inside and not (path / "config.json").is_file():
        raise OutputError(f"The folder `{output}` holds no config.json: it is no saved model, and is not replaced.")
    ours = module_folders(path)
    if below := next((p for p in inside if p.is_dir() and not (p.name in ours and _is_module(p))), None):
        raise OutputError(
            f"The folder `{output}` holds more than a saved model, and is not replaced: `{below.name}` would be deleted. Move "
            "that away, or name another folder."
        )


def _is_module(folder: Path) -> bool:
    """Whether a folder holds but the settings and weights of a module."""
    return all(f.is_file() and f.suffix in (".json", ".safetensors") for f in folder.iterdir())


@contextmanager
def whole_or_absent(path: Path, overwrite: bool, needed: int) -> Iterator[Path]:
    """A hidden folder beside `path`, which `check_output` gave, that takes its place at the end, or is gone."""
    partial, lock = None, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, lock = _claimed(path)
        yield partial
        _sync(partial)
        _put(partial, path, overwrite)
    except LearngeneError:
        raise
    except Exception as error:  # safetensors reports a full disk by an error of its own, which is no OSError
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)  # before the free space is told
        if (failure := write_failure(error, path, needed)) is not None:
            raise failure from error
        raise
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        release(lock)


def _put(partial: Path, path: Path, overwrite: bool) -> None:
    """Moves what is complete to where it belongs. Between the two renames of a replacement there is no model at `path`."""
    if not path.exists():
        os.rename(partial, path)
        _sync_folder(path.parent)
        return
    if not overwrite:  # somebody else made it meanwhile
        raise OutputError(f"The folder `{path}` came into being while this one was written. It was left as it is.")
    old, lock = _beside(path, _OLD), claim(path)  # held, so that no other run takes it for litter
    try:
        os.rename(path, old)
        try:
            os.rename(partial, path)
        except BaseException:
            if not path.exists():
                os.rename(old, path)
            raise
        try:
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        release(lock)


def _sweep(path: Path) -> None:
    """Removes what runs that are dead left beside `path`; a model that was moved aside comes back where none is there."""
    for litter in path.parent.glob(f".{_escaped(path.name)}.*"):
        found = re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.({_PARTIAL}|{_OLD})", litter.name)
        if found is None or litter.is_symlink() or not litter.is_dir():
            continue
        lock = None
        try:
            if (lock := claim(litter)) is None:
                continue
            if found[1] == _OLD and not path.exists():
                os.rename(litter, path)
            else:
                shutil.rmtree(litter, ignore_errors=True)
        except OSError:  # another run works on it, or did just now
            continue
        finally:
            release(lock)


def _claimed(path: Path) -> tuple[Path, int | None]:
    """A new hidden folder, and a lock that tells other runs that it is in use."""
    while True:
        partial = _beside(path, _PARTIAL)
        partial.mkdir()
        with suppress(BlockingIOError, FileNotFoundError):  # another run's sweep came between
            lock = claim(partial)
            if partial.exists():
                return partial, lock
            release(lock)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _sync(folder: Path) -> None:
    """Opens the files to whoever may read the folder, and writes all through to the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(folder.stat().st_mode & 0o666)  # safetensors writes for the owner only
    sync_files(folder)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
