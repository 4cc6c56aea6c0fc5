"""Lies in JSON: every field of a file in turn absent, of another type or of a value that nothing has; files that are none."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faults.lies import Lie


ABSENT: Any = object()


def _nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


VALUES: dict[str, Any] = {
    "absent": ABSENT, "null": None, "true": True, "-1": -1, "0": 0, "1": 1, "7": 7, "1.5": 1.5, "-0.5": -0.5,
    "1e5": 10**5, "1e9": 10**9, "1e18": 10**18, "-1e18": -(10**18), "1e300": 1e300, "1e400": 10**400, "NaN": float("nan"),
    "Infinity": float("inf"), "no text": "", "x": "x", "a path": "../../etc/passwd", "a zero": "\0", "a long text": "x" * 100_000,
    "[]": [], "[1, 2, 3]": [1, 2, 3], "[null]": [None], "['x']": ["x"], "200 deep": _nested(200), "{}": {},
    "{'a': 1}": {"a": 1}, "{'0': null}": {"0": None},
}  # fmt: skip
FEW = {name: VALUES[name] for name in ("absent", "null", "-1", "1e9", "NaN", "x", "[1, 2, 3]", "{'a': 1}")}


def fields(file: str, values: dict[str, Any] = VALUES, depth: int = 1) -> Callable[[Path], Iterator[Lie]]:
    """Every field of a file, down to some depth, with every value that it has not."""

    def of(folder: Path) -> Iterator[Lie]:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        for path in _paths(content, depth):
            for name, value in values.items():
                if value is not ABSENT and _at(content, path) == value and type(_at(content, path)) is type(value):
                    continue
                yield Lie(f"{file}: {'.'.join(map(str, path))} is {name}", _setting(file, path, value), file)

    return of


def added(file: str, values: dict[str, Sequence[Any]]) -> Callable[[Path], Iterator[Lie]]:
    """Fields that the file may have and has not."""

    def of(folder: Path) -> Iterator[Lie]:
        for field, given in values.items():
            for value in given:
                yield Lie(f"{file}: {field} is {str(value)[:30]}", _setting(file, (field,), value), file)

    return of


def texts(*files: str, believed: bool = False) -> Callable[[Path], Iterator[Lie]]:
    """Files that are no JSON, no text, or no files.

    Args:
        files: their names.
        believed: whether a reader may go on without them.
    """

    def of(folder: Path) -> Iterator[Lie]:
        for file in files:
            for name, write in TEXTS.items():
                yield Lie(
                    f"{file} is {name}", lambda place, file=file, write=write: write(place / file), file, believed
                )

    return of


def together(*parts: Callable[[Path], Iterable[Lie]]) -> Callable[[Path], Iterator[Lie]]:
    """Lies of several generators."""

    def of(folder: Path) -> Iterator[Lie]:
        for part in parts:
            yield from part(folder)

    return of


def _with(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def _replaced(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        path.unlink()
        make(path)

    return write


TEXTS: dict[str, Callable[[Path], Any]] = {
    "empty": _with(b""), "a brace": _with(b"{"), "a list": _with(b"[]"), "null": _with(b"null"), "a number": _with(b"3"),
    "a text": _with(b'"vit"'), "a zero": _with(b"\0"), "UTF-16": _with('{"a": 1}'.encode("utf-16")),
    "no UTF-8": _with(b'{"model_type": "\xff"}'), "half of itself": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "100,000 deep": _with(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "a list 100,000 deep": _with(b"[" * 100_000),
    "one number of 10,000 digits": _with(b'{"a": ' + b"9" * 10_000 + b"}"),
    "a folder": _replaced(os.mkdir), "a link to itself": _replaced(lambda path: path.symlink_to(path.name)),
    "a link to nothing": _replaced(lambda path: path.symlink_to("nothing")),
    "a pipe": _replaced(os.mkfifo), "an endless device": _replaced(lambda path: path.symlink_to("/dev/zero")),
}  # fmt: skip


def _setting(file: str, path: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    def tell(folder: Path) -> None:
        place = folder / file
        content = copy.deepcopy(json.loads(place.read_text(encoding="utf-8")))
        inner = _at(content, path[:-1])
        if value is not ABSENT:
            inner[path[-1]] = value
        elif isinstance(inner, dict):
            inner.pop(path[-1], None)
        else:
            del inner[path[-1]]
        place.write_text(json.dumps(content), encoding="utf-8")

    return tell


def _paths(content: Any, depth: int, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, dict):
        inner = list(content.items())[:40]
    elif isinstance(content, list):
        inner = list(enumerate(content))[:2]  # one is as another
    for key, value in inner:
        yield (*before, key)
        if len(before) + 1 < depth:
            yield from _paths(value, depth, (*before, key))


def _at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content
