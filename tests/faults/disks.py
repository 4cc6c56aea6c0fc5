"""Disks that are full, read-only or slow to say so, outputs in places that are none, and two writers at once.

    PYTHONPATH=tests python -m tests.faults.disks --cases 20 --seed 0 --output disks.json

Each command runs `cases` times with one of its operations on files failing, drawn evenly from all of them by the seed; on file
systems of several sizes up to what it needs; with files that may not grow; and on folders that cannot be written. Some of them
are given outputs that are none, and run twice at once, `cases` times.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from faults import forks
from faults.commands import COMMANDS, Command, World, state
from faults.kills import again, undisturbed
from faults.mounts import mount_tmpfs, read_only, unshare
from faults.outcomes import Case, Outcome, main
from faults.points import Points, failing


SEVERAL = ("save_resized", "resize --overwrite", "build", "compare")
ERRORS = (errno.ENOSPC, errno.EACCES, errno.EIO)
REMOVALS = ("remove", "rmdir")  # a file that cannot be deleted stays until the next run sweeps it


class Tried:
    """A command that is disturbed in many ways.

    Args:
        world: what it works on.
        place: an empty folder.
        command: the command.
    """

    def __init__(self, world: World, place: Path, command: Command) -> None:
        self.world, self.place, self.command = world, place, command
        self.wanted, self.seconds, self.operations = undisturbed(world, place / "undisturbed", command)

    def case(self, kind: str, name: str, disturb: Callable[[Path], None]) -> Case:
        """One run, disturbed by what `disturb` does in its fork first, to the folder that the output comes into.

        What is there afterwards is told by the fork: a file system that is mounted there is gone with it.
        """
        place = self.place / kind / name.replace(" ", "").replace("/", "")
        self.command.prepare(self.world, place / "out")
        before = state(place / "out")

        def job() -> tuple[forks.Failure | None, dict[str, str] | str, list[str]]:
            disturb(place)
            if not (place / "out").exists():
                self.command.prepare(self.world, place / "out")  # on what was mounted there
            error = None
            try:
                self.command(self.world, place / "out")
            except Exception as raised:
                error = forks.Failure.of(raised)
            return error, state(place / "out"), sorted(path.name for path in place.iterdir())

        group = f"{kind}: {self.command.name}"
        ended = forks.run(job)
        if ended.value is None:
            return Case(group, name, Outcome.HUNG if ended.hung else Outcome.UNTYPED, str(ended.error or "died"))
        error, there, names = ended.value
        if error is not None and not error.typed:
            return Case(group, name, Outcome.UNTYPED, str(error))
        if there not in (self.wanted, before, "absent") and not (self.command.goes_on and isinstance(there, dict)):
            return Case(group, name, Outcome.HALF, str(there)[:200])
        if error is None and there != self.wanted:
            return Case(group, name, Outcome.HALF, "it says that it is done, and is not")
        if place.is_dir() and os.listdir(place) == names:  # and not on a file system of its own
            finished = there == self.wanted and not self.command.overwrites
            if fault := again(self.world, place, self.command, self.wanted, finished):
                return Case(group, name, *fault)
        elif (litter := [name for name in names if name != "out"]) and not name.endswith(REMOVALS):
            return Case(group, name, Outcome.HALF, f"litter stays: {litter[:3]}")
        return Case(group, name, Outcome.WHOLE if error is None else Outcome.TYPED, str(error or ""))


def failing_operations(tried: Tried, most: int, seed: int = 0, numbers: Sequence[int] = ERRORS) -> Iterator[Case]:
    """Every operation fails once, with one error after the other; of more than `most`, one drawn from each of as many spans."""
    for turn, at in enumerate(drawn(len(tried.operations), most, f"{seed} {tried.command.name}")):
        number = numbers[turn % len(numbers)]

        def disturb(place: Path, at: int = at, number: int = number) -> None:
            Points(place, at=at, act=failing(number))

        name = f"{errno.errorcode[number]} at {at} {tried.operations[at]}"
        yield tried.case("an operation fails", name, disturb)


def drawn(count: int, most: int, seed: str) -> list[int]:
    """Numbers below `count`: all of them, or of more than `most` one from each of so many equal spans.

    Example:
        >>> drawn(3, 5, "")
        [0, 1, 2]
    """
    draw = random.Random(seed)
    return list(range(count)) if count <= most else [int(count * (n + draw.random()) / most) for n in range(most)]


def full_disks(tried: Tried, steps: int = 3) -> Iterator[Case]:
    """File systems that are too small: told so before, or filled up meanwhile by somebody else."""
    before = _bytes(tried.world / "small") + (1 << 14) if tried.command.overwrites else 0
    needed = _bytes(tried.place / "undisturbed" / "0")
    for kind, free in (("a disk that is full", None), ("a disk that fills up", 1 << 40)):
        for step in range(steps):
            size = max(4096, before + needed * step // steps)

            def disturb(place: Path, size: int = size, free: int | None = free) -> None:
                unshare()
                mount_tmpfs(place, size)
                if free is not None:
                    shutil.disk_usage = lambda _: shutil._ntuple_diskusage(free, 0, free)

            yield tried.case(kind, f"{size} bytes", disturb)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def small_files(tried: Tried, limits: Iterable[int] = (0, 1000, 10_000)) -> Iterator[Case]:
    """Files that may not grow beyond a limit (`ulimit -f`)."""
    for limit in limits:

        def disturb(place: Path, limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        yield tried.case("files of a limited size", f"{limit} bytes", disturb)


def temporary_folders(tried: Tried) -> Iterator[Case]:
    """TMPDIR full, read-only, or not there; and a source that is read-only, which is none of the command's business."""

    def temporary(place: Path) -> Path:
        folder = place.with_name(f"{place.name}-tmp")
        folder.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        return folder

    def full(place: Path) -> None:
        folder = temporary(place)
        unshare()
        mount_tmpfs(folder, 4096)
        (folder / "full").write_bytes(b"0" * 4096)

    def unwritable(place: Path) -> None:
        folder = temporary(place)
        unshare()
        read_only(folder)

    def gone(place: Path) -> None:
        temporary(place).rmdir()

    for name, disturb in (("full", full), ("read-only", unwritable), ("gone", gone)):
        yield tried.case("TMPDIR", name, lambda place, disturb=disturb: disturb(place))

    def sources(place: Path) -> None:
        unshare()
        read_only(tried.world.folder)

    yield tried.case("read-only", "the source", sources)
    for name in (
        ("the folder of the output", "the output") if tried.command.overwrites else ("the folder of the output",)
    ):

        def disturb(place: Path, name: str = name) -> None:
            unshare()
            read_only(place if name.startswith("the folder") else place / "out")

        yield tried.case("read-only", name, disturb)


# ---- outputs in places that are none


def places(tried: Tried) -> Iterator[Case]:
    """Names for an output that lie where no folder can be made, or where something else is."""
    for name, make in (PLACES | IN_SOURCES).items():
        place = tried.place / "places" / name.replace(" ", "").replace("/", "")
        place.mkdir(parents=True)
        (place / "own").mkdir()
        (place / "own" / "thesis.txt").write_text("mine")
        world = tried.world
        if name in IN_SOURCES:
            world = world.copied(place / "world")
        output = make(place)
        before = _everything(place)

        def job(output: Path = output, world: World = world) -> None:
            tried.command(world, output)

        ended = forks.run(job)
        group, after = f"places: {tried.command.name}", _everything(place)
        lost = [path for path, content in before.items() if after.get(path) != content]
        there = state(output)
        whole = isinstance(there, dict) and there.keys() >= tried.wanted.keys()
        if tried.command.overwrites and ended.error is None and whole:
            lost = [path for path in lost if not (place / path).is_relative_to(output)]  # another model: as was asked
        if lost:
            yield Case(group, name, Outcome.HALF, "what was there is not there any more")
        elif ended.hung or ended.killed:
            yield Case(group, name, Outcome.HUNG)
        elif ended.error is not None:
            left = sorted(after.keys() - before.keys())
            outcome = Outcome.UNTYPED if not ended.error.typed else Outcome.HALF if left else Outcome.TYPED
            yield Case(group, name, outcome, f"{ended.error} {left[:2] if left else ''}")
        else:
            yield Case(group, name, Outcome.WHOLE if whole else Outcome.HALF, "" if whole else str(there)[:200])


def _link(place: Path, target: str) -> Path:
    (place / "link").symlink_to(target)
    return place / "link"


def _fifo(place: Path) -> Path:
    os.mkfifo(place / "fifo")
    return place / "fifo"


PLACES: dict[str, Callable[[Path], Path]] = {
    "a file": lambda place: place / "own" / "thesis.txt",
    "below a file": lambda place: place / "own" / "thesis.txt" / "out",
    "a folder of somebody": lambda place: place / "own",
    "a link to a folder": lambda place: _link(place, "own"),
    "a link to a file": lambda place: _link(place, "own/thesis.txt"),
    "a link to nothing": lambda place: _link(place, "nothing"),
    "a link to itself": lambda place: _link(place, "link"),
    "a pipe": _fifo,
    "a device": lambda place: Path("/dev/null"),
    "a long name": lambda place: place / ("x" * 300),
    "a name that is just too long": lambda place: place / ("x" * 250),
    "a long path": lambda place: place.joinpath(*["x" * 200] * 25),
    "a zero in its name": lambda place: place / "a\0b",
    "a line break in its name": lambda place: place / "a\nb",
    "bytes that are no text": lambda place: place / os.fsdecode(b"a\xffb"),
    "many new folders": lambda place: place / "a" / "b" / "c",
    "dots": lambda place: place / "own" / ".." / "new",
    "the folder above": lambda place: place / "own" / "..",
    "proc": lambda place: Path("/proc/self/out"),
}

IN_SOURCES: dict[str, Callable[[Path], Path]] = {
    **{f"the source {name}": lambda place, name=name: place / "world" / name for name in World.SOURCES},
    "in a source": lambda place: place / "world" / "vit" / "out",
    "around all sources": lambda place: place / "world",
}


def _everything(place: Path) -> dict[str, bytes]:
    """Files and links below a folder; what a run makes of new folders is a matter of its own."""
    return {
        str(path.relative_to(place)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in place.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# ---- two writers


def two_writers(tried: Tried, rounds: int, seed: int) -> Iterator[Case]:
    """Two runs for one output at once, that make the same or different ones, one of them a little later."""
    other = tried.place / "other"
    tried.command.prepare(tried.world, other / "out")
    forks.run(lambda: tried.command(tried.world, other / "out", 1))
    results = {0: tried.wanted, 1: state(other / "out")}
    draw = random.Random(f"{seed} {tried.command.name}")
    for number in range(rounds):
        place, group = tried.place / "writers" / str(number), f"two writers: {tried.command.name}"
        variants, later = (0, number % 2), draw.uniform(0, tried.seconds)
        tried.command.prepare(tried.world, place / "out")
        children = []
        for variant, wait in zip(variants, (0.0, later), strict=True):

            def job(variant: int = variant, wait: float = wait, place: Path = place) -> None:
                time.sleep(wait)
                tried.command(tried.world, place / "out", variant)

            children.append(forks.Child(job))
        ended = [child.wait() for child in children]
        name = f"round {number}, {'the same' if variants[1] == 0 else 'another'} {later:.2f} s later"
        there, names = state(place / "out"), sorted(path.name for path in place.iterdir())
        errors = [one.error for one in ended if one.error is not None]
        if any(one.hung or one.killed for one in ended):
            yield Case(group, name, Outcome.HUNG)
        elif any(not error.typed for error in errors):
            yield Case(group, name, Outcome.UNTYPED, "; ".join(map(str, errors)))
        elif len(errors) == 2:
            yield Case(group, name, Outcome.HALF, f"nobody made it: {'; '.join(map(str, errors))}")
        elif there not in [results[variant] for variant in variants] or names != ["out"]:
            yield Case(group, name, Outcome.HALF, f"{str(there)[:200]}, {names}")
        else:
            yield Case(group, name, Outcome.WHOLE, "; ".join(map(str, errors)))


def disks(world: World, place: Path, names: Iterable[str], cases: int, seed: int) -> Iterator[Case]:
    """All of the above for some commands."""
    names = list(names)
    world.warm(place / "warm", names)
    for name in names:
        tried = Tried(world, place / name.replace(" ", ""), COMMANDS[name])
        yield from failing_operations(tried, cases, seed)
        yield from full_disks(tried)
        yield from small_files(tried)
        yield from temporary_folders(tried)
        if name in SEVERAL:
            yield from places(tried)
            yield from two_writers(tried, cases, seed)


def cases_of(cases: int, seed: int) -> Iterator[Case]:
    with tempfile.TemporaryDirectory(prefix="faults_") as folder:
        place = Path(folder)
        yield from disks(World(place / "world"), place, COMMANDS, cases, seed)


if __name__ == "__main__":
    main("disks", __doc__, cases_of, 20)
