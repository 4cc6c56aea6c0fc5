"""No file of the package imports another that imports it back, wherever in the file the import stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hf_learngene


ROOT = Path(hf_learngene.__file__).parent


def module_of(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, known: set[str], root: Path = ROOT) -> Iterator[str]:
    """Modules that a file imports: also in functions, under TYPE_CHECKING, and by name.

    A package is among them only where it is imported itself, for `from package import name` with a name that is no module.
    """
    package = module_of(path, root) if path.name == "__init__.py" else module_of(path, root).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(p for p in (above, node.module) if p)
            for name in node.names:
                whole = f"{source}.{name.name}"
                if whole in known or source in known:
                    yield whole if whole in known else source
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and a.value in known)


def graph_of(root: Path = ROOT) -> dict[str, set[str]]:
    files = {module_of(path, root): path for path in sorted(root.rglob("*.py"))}
    return {name: set(imports_of(path, set(files), root)) - {name} for name, path in files.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that all reach one another."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        reach[start] = seen
    found = []
    for name in graph:
        members = {other for other in reach[name] if name in reach[other]}
        if members and members not in found:
            found.append(members)
    return found


def test_no_file_imports_one_that_imports_it_back():
    found = circles(graph_of())
    assert not found, "\n".join(" <-> ".join(sorted(c)) for c in found)


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path):
    root = tmp_path / "house"
    (root / "room").mkdir(parents=True)
    files = {
        "__init__.py": "from house.room import door",
        "lamp.py": "from house.room.door import open",
        "room/__init__.py": "from .door import open",
        "room/door.py": "def open():\n    from ..lamp import light\n",
        "room/wall.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.room.roof",
        "room/roof.py": "from importlib import import_module\nimport_module('house.room.wall')",
        "room/floor.py": "import os\nfrom house.room import door, open",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    graph = graph_of(root)
    assert graph["house.room.floor"] == {"house.room.door", "house.room"}
    assert graph["house"] == {"house.room.door"}
    assert sorted(map(sorted, circles(graph))) == [
        ["house.lamp", "house.room.door"], ["house.room.roof", "house.room.wall"],
    ]  # fmt: skip
