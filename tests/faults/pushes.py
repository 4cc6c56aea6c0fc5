"""SIGKILL at random moments of a push, to a Hub on loopback: all of it arrives, or nothing does.

    PYTHONPATH=tests python -m tests.faults.pushes --cases 30 --seed 0 --output pushes.json

`push_folder` of a saved model and `push_resized` of one in memory run undisturbed first; then they are killed `cases` times at
moments drawn uniformly over that time. After each kill the branch has to be as it was, or to hold the whole model; the same push,
run once more, has to succeed, and no other commit may lie between.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from faults import forks
from faults.hub import JOBS, PUSHES, Asked
from faults.outcomes import Case, Outcome, main
from testing.hub import Hub
from testing.hub_client import Client


def killed(name: str, output: Path, after: float | None) -> tuple[float, str | None]:
    """A job, in the client: runs a push in a fork and kills it. Gives the seconds that it took, and its error in words."""
    tempfile.tempdir = str(output.parent)  # what it leaves there is seen
    ended = forks.run(lambda: JOBS[name](output), kill_after=after)
    return ended.seconds, None if ended.error is None else str(ended.error)


def killed_pushes(asked: Asked, cases: int, seed: int) -> Iterator[Case]:
    """The cases of both pushes, `cases` of each."""
    asked.prepare()
    for name in PUSHES:
        draw, group, place = random.Random(f"{seed} {name}"), f"{name} (push)", asked.place / name
        place.mkdir()
        (place / "saved").symlink_to(asked.saved)
        seconds = 0.0
        for _ in range(2):
            asked.fill()
            before = asked.there(name, place)
            seconds, error = asked.client.run(killed, name, place / "out", None)
            if error is not None:
                raise RuntimeError(f"{name} does not even run undisturbed: {error}")
        made, commits = asked.there(name, place), len(asked.hub.repos["user/pushed"].commits)
        for number in range(cases):
            asked.fill()
            after = draw.uniform(0, seconds)
            _, error = asked.client.run(killed, name, place / "out", after)
            told, there = f"{number}: after {after:.3f} of {seconds:.3f} s", asked.there(name, place)
            arrived = there == made
            if error is not None:
                yield Case(group, told, Outcome.UNTYPED, f"not killed, but failed: {error}")
                continue
            if not arrived and not all(files in before.values() for files in there.values()):
                yield Case(group, told, Outcome.HALF, str(there)[:200])
                continue
            _, error = asked.client.run(killed, name, place / "out", None)
            repo = asked.hub.repos["user/pushed"]
            if error is not None or asked.there(name, place) != made or len(repo.commits) > commits + arrived:
                yield Case(group, told, Outcome.HALF, f"the second run: {error or asked.there(name, place)}"[:200])
            elif left := [path.name for path in place.iterdir() if path.name not in ("out", "saved")]:
                yield Case(group, told, Outcome.HALF, f"litter stays: {left}")
            else:
                yield Case(group, told, Outcome.WHOLE if arrived else Outcome.ABSENT)


def cases_of(cases: int, seed: int) -> Iterator[Case]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="faults_") as folder, Hub() as hub:
        (Path(folder) / "home").mkdir()
        with Client(hub.endpoint, Path(folder) / "home") as client:
            yield from killed_pushes(Asked(hub, client, Path(folder) / "hub"), cases, seed)


if __name__ == "__main__":
    from faults import pushes  # jobs are known by the name of their module

    main("pushes", __doc__, pushes.cases_of, 30)
