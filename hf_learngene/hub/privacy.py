"""Files that tell of the machine they were made on: its home, its working and its temporary folders. They stay there."""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hf_learngene.errors import OutputError


_READABLE = (".json", ".md", ".txt", ".yaml", ".yml")
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "merges.txt", "vocab.json")  # of words, and any could look like a path


def check_private(folder: Path, names: Iterable[str]) -> None:
    """Refuses files of a folder that tell of the machine.

    Raises:
        OutputError: names the file and what it tells.
    """
    pattern = _places(folder)
    for file in (folder / name for name in names):
        if file.suffix in _READABLE and file.name not in _VOCABULARIES:
            content = file.read_text(encoding="utf-8", errors="replace")
        elif file.suffix == ".safetensors":
            with file.open("rb") as handle:
                content = handle.read(int.from_bytes(handle.read(8), "little")).decode("utf-8", errors="replace")
        else:
            continue
        if told := pattern.search(content):
            raise OutputError(
                f"`{file.relative_to(folder).as_posix()}` holds {told[0]!r}, which tells of this machine. Take it out and push "
                "again; nothing was uploaded."
            )


def _places(folder: Path) -> re.Pattern[str]:
    """The home folder, and what lies where this folder, temporary files and the work at hand lie.

    A path stands by itself or after `file://`: `https://host/data/` tells of no `/data`.
    """
    above = (folder.resolve().parent, Path(tempfile.gettempdir()), Path.cwd())
    found = [re.escape(f"{place}{os.sep}") for place in above if len(place.parts) > 1]
    with suppress(RuntimeError):  # there is no home
        found += [rf"{re.escape(str(home))}(?![\w-])" for home in [Path.home()] if len(home.parts) > 1]
    paths = [rf"(?:(?<![\w.~/-])|(?<=file://))(?:{'|'.join(found)})"] if found else []
    with suppress(OSError, KeyError):  # the user has no name
        paths.append(rf"[/\\](?:home|Users)[/\\]+{re.escape(getpass.getuser())}(?![\w-])")
    return re.compile("|".join(paths) or "(?!)")
