"""Checkpoints that lie: what their files say is damaged, contradicts itself, or is made to do harm.

    PYTHONPATH=tests python -m tests.faults.lies --cases 25 --seed 0 --output lies.json

Every lie is told to everything that reads that kind of file, each in a fork of its own. Either it is refused by a typed error
that names the file or its folder, within 10 seconds and 1 GB, or the result is honest: what transformers itself reads there,
resized. Of each kind at most `cases` are told, drawn by the seed; 1000000 are all of them.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults import forks
from faults.commands import World
from faults.outcomes import Case, Outcome, main


SECONDS, BYTES = 10.0, 1 << 30
FOLDER = "the-liar"  # of the checkpoint, which messages have to name
RAN = "it-ran"  # a file that only foreign code would make


@dataclass(frozen=True)
class Lie:
    """A checkpoint with one thing wrong with it.

    Attributes:
        name: what is wrong.
        tell: makes it so, in a folder that holds the checkpoint as it was.
        file: that it stands in, which a message may name in place of the folder.
        read: whether somebody may believe it; none of the readers may, where not.
    """

    name: str
    tell: Callable[[Path], None]
    file: str
    read: bool = True


@dataclass(frozen=True)
class Kind:
    """Lies of one kind, and who is told.

    Attributes:
        name: of the kind.
        source: name of the honest checkpoint.
        lies: (folder of the honest checkpoint) -> the lies.
        readers: name -> reads (folder, an empty folder) and says what is dishonest of what it made of it; None if nothing is.
    """

    name: str
    source: str
    lies: Callable[[Path], Iterable[Lie]]
    readers: dict[str, Callable[[World, Path, Path], str | None]]


def lies(world: World, place: Path, kinds: Iterable[Kind], cases: int, seed: int) -> Iterator[Case]:
    """The cases of some kinds of lies, `cases` of each at most."""
    for kind in kinds:
        told = list(kind.lies(world / kind.source))
        draw = random.Random(f"{seed} {kind.name}")
        for number, lie in enumerate(told if len(told) <= cases else draw.sample(told, cases)):
            for reader in kind.readers:
                yield _case(world, place / kind.name.replace(" ", "") / f"{number}-{reader}", kind, lie, reader)


def _case(world: World, place: Path, kind: Kind, lie: Lie, reader: str) -> Case:
    folder, name = place / FOLDER, f"{lie.name}, read by {reader}"
    (place / "made").mkdir(parents=True)

    def job() -> str | None:
        return kind.readers[reader](world, folder, place / "made")

    world.copy(kind.source, folder)
    lie.tell(folder)
    ended = forks.run(job, limit=SECONDS)
    if (place / RAN).exists():
        return Case(kind.name, name, Outcome.HALF, "code in the file was run")
    if ended.hung or ended.killed:
        return Case(kind.name, name, Outcome.HUNG, "too long" if ended.hung else "it died")
    if ended.peak > BYTES:
        return Case(kind.name, name, Outcome.HUNG, f"{ended.peak / 1e9:.1f} GB")
    if ended.error is None:
        dishonest = ended.value or (None if lie.read else "it was believed")
        return Case(kind.name, name, Outcome.HALF if dishonest else Outcome.WHOLE, dishonest or "")
    if not ended.error.typed:
        return Case(kind.name, name, Outcome.UNTYPED, str(ended.error))
    if not any(text in ended.error.message for text in (FOLDER, lie.file)):
        return Case(kind.name, name, Outcome.UNTYPED, f"names no file: {ended.error}")
    if left := [path.name for path in (place / "made").iterdir()]:
        return Case(kind.name, name, Outcome.HALF, f"refused, and there is {left}")
    return Case(kind.name, name, Outcome.TYPED, str(ended.error))


def cases_of(cases: int, seed: int) -> Iterator[Case]:
    from faults.liars import KINDS, extend

    with tempfile.TemporaryDirectory(prefix="faults_") as folder:
        place = Path(folder)
        world = extend(World(place / "world"))
        yield from lies(world, place, KINDS, cases, seed)


if __name__ == "__main__":
    main("lies", __doc__, cases_of, 25)
