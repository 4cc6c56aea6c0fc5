"""Draws resizes of every family by every method, and counts which are made right, which are refused, and which go wrong.

    python benchmarks/faults_properties.py                        # 5,000 cases of each of two seeds
    python benchmarks/faults_properties.py --cases 500 --seeds 3  # fewer, others
    python benchmarks/faults_properties.py --only bert            # of the classes whose family or name holds a word
    python benchmarks/faults_properties.py --again                # only what went wrong: what becomes of it now

`tests/faults/properties.py` says what is looked at. Every class gets as many cases; they are drawn from the seed, the class and a
number, so a run can be stopped, and goes on where it was, class by class. A fault is written down as a call that makes it again:

    PYTHONPATH=.:tests python -c "from faults.properties import *; check(Case(...))"

The counts stay as they were drawn; `--again` writes beside each fault what its case comes to since.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from jobs import Rows, machine, quiet, write


HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

AUTO, ACCEPTED, WRONG, UNTYPED = "auto", "accepted", "wrong", "untyped"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5_000, help="of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--report", action="store_true", help="only count what is done already")
    parser.add_argument("--again", action="store_true", help="only what went wrong, with the code as it is now")
    parser.add_argument("--only", default="", help="classes whose family or name holds a word")
    parser.add_argument(
        "--rows", type=Path, default=HERE / ".cache" / "faults_properties.json", help="what is done already"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "faults_properties.json", help="the counts")
    return parser.parse_args()


def outcome(case: Any) -> tuple[str, str]:
    """What becomes of a case: `accepted`, the name of its refusal, `wrong` or `untyped`; and of a fault, what is known of it."""
    from faults.properties import check

    try:
        return check(case) or ACCEPTED, ""
    except AssertionError as error:
        return WRONG, f"{error}"[:600]
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in place if "/hf_learngene/" in f.filename]
        return UNTYPED, f"{type(error).__name__}: {error}"[:500] + f" ({', '.join(ours[-3:])})"


def row_of(of: tuple[str, dict[str, Any], str], numbers: Iterable[int], seed: int) -> dict[str, Any]:
    """What becomes of the cases of one class."""
    from faults.cases import draw

    kind, extra, name = of
    row: dict[str, Any] = {
        "family": kind,
        "class": name,
        "extra": repr(extra),
        "seed": seed,
        "methods": {},
        "faults": [],
    }
    began, slowest = time.process_time(), (0.0, "")
    for number in numbers:
        case = draw(Random(f"{seed}/{name}/{extra}/{number}"), of)
        start = time.process_time()
        what, known = outcome(case)
        took = time.process_time() - start
        slowest = max(slowest, (round(took, 2), repr(case)))
        counts = row["methods"].setdefault(case.request.get("method", AUTO), {})
        counts[what] = counts.get(what, 0) + 1
        if known:
            row["faults"].append({"kind": what, "what": known, "case": repr(case)})
    return {**row, "slowest": slowest, "seconds": round(time.process_time() - began, 1)}


def run(options: argparse.Namespace) -> Rows:
    """A row of every class and seed; those that were made of as many cases under the same versions are kept."""
    from faults.cases import CLASSES

    head = {"cases": options.cases, **machine()}
    saved = json.loads(options.rows.read_text()) if options.rows.exists() else {}
    rows: Rows = saved["rows"] if saved.get("head") == head else []
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    each, more = divmod(options.cases, len(CLASSES))
    for number, of in enumerate(CLASSES):
        kind, extra, name = of
        if options.report or not (options.only in kind or options.only in name):
            continue
        for seed in options.seeds:
            if any((r["class"], r["extra"], r["seed"]) == (name, repr(extra), seed) for r in rows):
                continue
            row = row_of(of, range(each + (number < more)), seed)
            rows.append(row)
            write(options.rows, json.dumps({"head": head, "rows": rows}))
            faults = f", {len(row['faults'])} faults" if row["faults"] else ""
            print(f"{number + 1} of {len(CLASSES)}: {name}, seed {seed}, {row['seconds']} s{faults}", flush=True)
    return rows


def again(output: Path) -> list[dict[str, Any]]:
    """Every fault of the counts, with what its case comes to now; kept there."""
    from faults.cases import Case

    saved = json.loads(output.read_text())
    for fault in saved["faults"]:
        what, known = outcome(eval(fault["case"], {"Case": Case}))
        fault |= {"now": what, "now what": known}
    write(output, json.dumps(saved, indent=1))
    found: list[dict[str, Any]] = saved["faults"]
    return found


def summary(rows: Rows) -> dict[str, Any]:
    """The counts over all rows."""
    by_method: dict[str, Counter[str]] = {}
    by_family: dict[str, Counter[str]] = {}
    pairs = set()
    for row in rows:
        for method, counts in row["methods"].items():
            by_method.setdefault(method, Counter()).update(counts)
            by_family.setdefault(row["family"], Counter()).update(counts)
            pairs |= {(row["family"], method)} if ACCEPTED in counts else set()
    whole = sum(by_method.values(), Counter())
    slowest = max((tuple(row["slowest"]) for row in rows), default=(0.0, ""))
    return {
        **_counted(whole),
        "refusals": {n: c for n, c in whole.most_common() if n not in (ACCEPTED, WRONG, UNTYPED)},
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "slowest": {"seconds": slowest[0], "case": slowest[1]},
        "classes": len({(row["class"], row["extra"]) for row in rows}),
        "families": len(by_family),
        "families x methods made": len(pairs),
        "by method": {name: _counted(counts) for name, counts in sorted(by_method.items())},
        "by family": {name: _counted(counts) for name, counts in by_family.items()},
    }


def _counted(counts: Counter[str]) -> dict[str, int]:
    faults = {name: counts[name] for name in (WRONG, UNTYPED)}
    refused = counts.total() - counts[ACCEPTED] - sum(faults.values())
    return {"cases": counts.total(), ACCEPTED: counts[ACCEPTED], "refused": refused, **faults}


def table(found: dict[str, Any]) -> str:
    """The counts in all and by method."""
    names = ("cases", ACCEPTED, "refused", WRONG, UNTYPED)
    rows = {"all": found, **found["by method"]}
    width = max(map(len, rows))
    lines = [" ".join([" " * width, *(f"{n:>9}" for n in names)])]
    lines += [" ".join([f"{name:{width}}", *(f"{counts[n]:>9,}" for n in names)]) for name, counts in rows.items()]
    pairs = f"{found['families x methods made']} pairs of {found['families']} families and {len(found['by method'])} methods made"
    slowest = f"slowest: {found['slowest']['seconds']} s, {found['slowest']['case']}"
    return "\n".join([*lines, "", f"{pairs}; {found['classes']} classes, {found['seconds']:,} s", slowest])


def main() -> int:
    options = parse()
    only = f" --only {options.only}" if options.only else ""
    seeds = " ".join(map(str, options.seeds))
    command = f"python benchmarks/faults_properties.py --cases {options.cases} --seeds {seeds}{only}"
    quiet()
    logging.getLogger("hf_learngene").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if options.again:
        faults = again(options.output)
        for fault in faults:
            print(f"{fault['case']}\n    then: {fault['what']}\n    now: {fault['now']} {fault['now what']}")
        return 0
    head = {"command": command, **machine()}
    rows = run(options)
    faults = [fault for row in rows for fault in row["faults"]]
    for fault in faults:
        print(f"{fault['kind']}: {fault['what']}\n    {fault['case']}")
    found = summary(rows)
    write(options.output, json.dumps({"head": head, **found, "faults": faults}, indent=1))
    print(table(found))
    return 1 if found[WRONG] or found[UNTYPED] else 0


if __name__ == "__main__":
    sys.exit(main())
