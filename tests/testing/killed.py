"""What a kill leaves on the disk, at any moment of a run.

One run is watched, and its folder copied before each operation on files: each copy is what a kill at that moment leaves.
A copy in which a file has just been written is taken a second time with half of that file.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


class Watcher:
    """Copies a folder before each operation on its files. Audit hooks cannot be taken out again, so there is one."""

    EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")

    def __init__(self) -> None:
        self.root: Path | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, given: tuple) -> None:
        if self.root is None or event not in self.EVENTS:
            return
        path = os.fsdecode(given[0]) if isinstance(given[0], (str, bytes, os.PathLike)) else ""
        # what is named relative to an open folder is what shutil.rmtree deletes
        if path.startswith(str(self.root)) or (event in ("os.remove", "os.rmdir") and not os.path.isabs(path)):
            self.take()

    def take(self) -> None:
        root, self.root = self.root, None
        state = tree(root)
        if not self.states or state != self.states[-1]:
            self.states.append(state)
        self.root = root

    def watch(self, root: Path, run) -> list[dict[str, bytes | None]]:
        """Every state of `root` that `run` passes through, each as path -> content (None: a folder)."""
        self.root, self.states = root, []
        try:
            run()
            self.take()
        finally:
            self.root = None
        half = []
        for before, after in zip(self.states, self.states[1:], strict=False):
            # a rename is never half done
            new = [name for name, content in after.items() if content and content not in before.values()]
            half += [{**after, name: after[name][: len(after[name]) // 2]} for name in new]
        return [*self.states, *half]


watcher = Watcher()


def tree(root: Path) -> dict[str, bytes | None]:
    found = {}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = path.read_bytes() if path.is_file() else None
    return found


def restore(state: dict[str, bytes | None], root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name, content in state.items():
        if content is None:
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).write_bytes(content)
    return root
