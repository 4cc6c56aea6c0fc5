"""SIGKILL at random moments of everything that writes, and at every kind of operation on files.

    PYTHONPATH=tests python -m tests.faults.kills --cases 9 --seed 0 --output kills.json

Each command runs undisturbed first, to know what it makes and how long it takes. Then it is killed `cases` times at moments drawn
uniformly over that time, and as often at operations on files drawn from all that it does. After each kill the output has to be
whole or absent, and the same command has to succeed, with the same result, and leave nothing else.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from faults import forks
from faults.commands import COMMANDS, Command, World, state
from faults.outcomes import Case, Outcome, main
from faults.points import Points, die


def kills(world: World, place: Path, names: Iterable[str], cases: int, seed: int) -> Iterator[Case]:
    """The cases of some commands.

    Args:
        world: what they work on.
        place: an empty folder.
        names: of the commands.
        cases: how many moments, and how many operations, of each.
        seed: for both draws.
    """
    names = list(names)
    world.warm(place / "warm", names)
    for name in names:
        command, draw = COMMANDS[name], random.Random(f"{seed} {name}")
        wanted, seconds, operations = undisturbed(world, place / "undisturbed" / _folder(name), command)
        moments: list[tuple[str, dict[str, Any], int | None]] = []
        for _ in range(cases):
            after = draw.uniform(0, seconds)
            moments.append((f"after {after:.3f} of {seconds:.3f} s", {"kill_after": after}, None))
        for at in draw.sample(range(len(operations)), min(cases, len(operations))):
            moments.append((f"at operation {at} of {len(operations)} ({operations[at]})", {}, at))
        for number, (told, how, at) in enumerate(moments):
            yield _killed(world, place / _folder(name) / str(number), command, wanted, told, how, at)


def undisturbed(world: World, place: Path, command: Command) -> tuple[dict[str, str], float, list[str]]:
    """What a command makes, how long it takes, and its operations on files.

    Raises:
        RuntimeError: it fails, or makes another thing the second time: nothing could be told from a kill.
    """

    def counted(folder: Path) -> list[str]:
        points = Points(folder)
        command(world, folder / "out")
        return list(points.names)

    ended, made = [], []
    for number in range(2):
        folder = place / str(number)
        command.prepare(world, folder / "out")
        job = (lambda folder=folder: command(world, folder / "out")) if number else lambda f=folder: counted(f)
        ended.append(forks.run(job))
        made.append(state(folder / "out"))
        if ended[-1].error or ended[-1].killed or isinstance(made[-1], str):
            raise RuntimeError(f"{command.name} does not even run undisturbed: {ended[-1].error or made[-1]}")
    if made[0] != made[1]:
        first = next(n for n in made[0].keys() | made[1].keys() if made[0].get(n) != made[1].get(n))
        raise RuntimeError(f"{command.name} makes another {first} each time")
    return made[0], ended[1].seconds, ended[0].value


def _killed(
    world: World, place: Path, command: Command, wanted: dict[str, str], told: str, how: dict[str, Any], at: int | None
) -> Case:
    output = place / "out"
    command.prepare(world, output)
    before = state(output)

    def job() -> None:
        if at is not None:
            Points(place, at=at, act=die)
        command(world, output)

    ended = forks.run(job, **how)
    if ended.error is not None:
        return Case(command.name, told, Outcome.UNTYPED, f"not killed, but failed: {ended.error}")
    there = state(output)
    outcome = Outcome.WHOLE if there == wanted else Outcome.ABSENT
    if there not in (wanted, before, "absent") and not (command.goes_on and isinstance(there, dict)):
        return Case(command.name, told, Outcome.HALF, _differs(there, wanted))
    fault = again(world, place, command, wanted, finished=there == wanted and not command.overwrites)
    return Case(command.name, told, *(fault if fault is not None else (outcome,)))


def again(
    world: World, place: Path, command: Command, wanted: dict[str, str], finished: bool
) -> tuple[Outcome, str] | None:
    """What is wrong with the same command, run once more after a disturbance; None if nothing is.

    Args:
        world: what it works on.
        place: holds the output, and nothing else that stays.
        command: the command.
        wanted: what it makes.
        finished: whether it was done already, which it has to say.
    """
    second = forks.run(lambda: command(world, place / "out"))
    if second.hung:
        return Outcome.HUNG, "the second run"
    if finished and not command.goes_on:
        if second.error is None or not second.error.typed or "exists" not in second.error.message:
            return Outcome.UNTYPED, f"the second run did not say that it is done: {second.error}"
    elif second.error is not None or second.killed:
        return Outcome.UNTYPED, f"the second run: {second.error or 'died'}"
    there = state(place / "out")
    if there != wanted:
        return Outcome.HALF, f"the second run: {_differs(there, wanted)}"
    if litter := sorted(path.name for path in place.iterdir() if path.name != "out"):
        return Outcome.HALF, f"litter stays: {', '.join(litter[:3])}"
    return None


def _differs(there: Any, wanted: dict[str, str]) -> str:
    if isinstance(there, str):
        return there
    names = sorted(n for n in there.keys() | wanted.keys() if there.get(n) != wanted.get(n))
    return f"{len(names)} files differ: " + ", ".join(
        f"{n} {'missing' if n not in there else 'left over' if n not in wanted else 'other'}" for n in names[:3]
    )


def _folder(name: str) -> str:
    return name.replace(" ", "")


def cases_of(cases: int, seed: int) -> Iterator[Case]:
    with tempfile.TemporaryDirectory(prefix="faults_") as folder:
        place = Path(folder)
        yield from kills(World(place / "world"), place, COMMANDS, cases, seed)


if __name__ == "__main__":
    main("kills", __doc__, cases_of, 9)
