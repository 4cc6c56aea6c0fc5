"""What becomes of something when it is disturbed, and how that is counted."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """What became of one case. The first three are promised, and the others are faults."""

    WHOLE = "whole"  # all of what an undisturbed run makes, and nothing else
    ABSENT = "absent"  # nothing, or what was there before; the next run is as if nothing had been
    TYPED = "typed"  # refused, by an error of the package that names what is wrong
    UNTYPED = "untyped"  # refused, by whatever came up
    HALF = "half"  # a part of it, another thing than was asked for, or litter that stays
    HUNG = "hung"  # more than the seconds or the memory that are allowed


WRONG = (Outcome.UNTYPED, Outcome.HALF, Outcome.HUNG)


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        group: what was tried, such as a command; tables have a row for each.
        name: what was done to it.
        outcome: what became of it.
        said: of a refusal or a fault, in words.
    """

    group: str
    name: str
    outcome: Outcome
    said: str = ""

    def __str__(self) -> str:
        return f"{self.group}, {self.name}: {self.outcome}{f' ({self.said})' if self.said else ''}"


def wrong(cases: Iterable[Case]) -> list[str]:
    """Those that are not as promised, in words: a test asks for none."""
    return [str(case) for case in cases if case.outcome in WRONG]


def content(cases: Iterable[Case], part: str, options: Mapping[str, int], minutes: float) -> dict[str, Any]:
    """A part's cases as plain data: counts by group, and every fault by name."""
    groups: dict[str, Counter[str]] = {}
    cases = list(cases)
    for case in cases:
        groups.setdefault(case.group, Counter())[case.outcome.value] += 1
    return {
        "part": part,
        "options": dict(options),
        "minutes": round(minutes, 1),
        "groups": {name: dict(counts) for name, counts in groups.items()},
        "wrong": [dataclasses.asdict(case) for case in cases if case.outcome in WRONG],
    }


def main(part: str, about: str | None, cases_of: Callable[[int, int], Iterator[Case]], cases: int) -> None:
    """The command line of a part: `--cases`, `--seed` and `--output`.

    Args:
        part: its name.
        about: its help.
        cases_of: (cases, seed) -> the cases.
        cases: how many by default, in the part's own measure.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=cases, help=f"how many, in the part's measure ({cases})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where the counts go, as JSON")
    options = parser.parse_args()
    began, found = time.monotonic(), list[Case]()

    def keep() -> dict[str, Any]:
        """What is done so far: a run that is stopped keeps it."""
        made = content(found, part, {"cases": options.cases, "seed": options.seed}, (time.monotonic() - began) / 60)
        if options.output is not None:
            partial = options.output.with_suffix(".partial")
            partial.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, options.output)
        return made

    for case in cases_of(options.cases, options.seed):
        if not found or found[-1].group != case.group:
            keep()
            print(f"{part}: {case.group}", flush=True)
        found.append(case)
        if case.outcome in WRONG:
            print(case, flush=True)
    made, counts = keep(), Counter(case.outcome.value for case in found)
    print(f"{part}: {len(found)} cases in {made['minutes']} min, {dict(counts)}", flush=True)
