"""Draws resizes of every family by every method, and counts which are made right, which are refused, and which go wrong.

    python benchmarks/faults_properties.py                       # 10,000 cases, in about a quarter of an hour
    python benchmarks/faults_properties.py --cases 500 --seed 3  # fewer, others
    python benchmarks/faults_properties.py --only bert           # of the classes whose family or name holds a word

`tests/faults/properties.py` says what is looked at. Every class gets as many cases; they are drawn from the seed, the class and a
number, so a run can be stopped, and goes on where it was, class by class. A fault is written down as a call that makes it again:

    PYTHONPATH=.:tests python -c "from faults.properties import *; check(Case(...))"
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
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "faults_properties.json")
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
    row: dict[str, Any] = {"family": kind, "class": name, "extra": repr(extra), "methods": {}, "faults": []}
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


def run(options: argparse.Namespace, head: dict[str, Any]) -> Rows:
    """A row of every class; those that lie at the output under the same head are kept."""
    from faults.cases import CLASSES

    saved = json.loads(options.output.read_text()) if options.output.exists() else {}
    rows: Rows = saved["rows"] if saved.get("head") == head else []
    each, more = divmod(options.cases, len(CLASSES))
    for number, of in enumerate(CLASSES):
        kind, extra, name = of
        done = any((r["class"], r["extra"]) == (name, repr(extra)) for r in rows)
        if done or not (options.only in kind or options.only in name):
            continue
        rows.append(row_of(of, range(each + (number < more)), options.seed))
        write(options.output, json.dumps({"head": head, "summary": summary(rows), "rows": rows}, indent=1))
        faults = len(rows[-1]["faults"])
        print(
            f"{number + 1} of {len(CLASSES)}: {name}, {rows[-1]['seconds']} s{f', {faults} faults' * bool(faults)}",
            flush=True,
        )
    return rows


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
        "classes": len(rows),
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
    command = f"python benchmarks/faults_properties.py --cases {options.cases} --seed {options.seed}{only}"
    quiet()
    logging.getLogger("hf_learngene").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rows = run(options, {"command": command, **machine()})
    for row in rows:
        for fault in row["faults"]:
            print(f"{fault['kind']}: {fault['what']}\n    {fault['case']}")
    found = summary(rows)
    print(table(found))
    return 1 if found[WRONG] or found[UNTYPED] else 0


if __name__ == "__main__":
    sys.exit(main())
