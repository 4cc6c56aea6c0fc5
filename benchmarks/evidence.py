"""docs/evidence.md: each claim, the paper's figure, ours, and whether it holds here.

    python benchmarks/evidence.py               # runs what has no result yet, hours; then writes the page
    python benchmarks/evidence.py --report      # writes the page from what lies in benchmarks/results
    python benchmarks/evidence.py --only growth_images

Each claim names the command whose result file it reads (`claims.py`), so a row can be made anew by itself: finished cells of
a command are kept and skipped. A claim without a result stands on the page as not measured. Minutes are this script's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from claims import CLAIMS, NOT_MEASURED, Claim, Found
from jobs import machine, write


HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "evidence.md"
ABOUT = """# Evidence

What the papers claim, what this package claims, and what came of it here, at the scale of two CPU cores: a ViT-S on CIFAR-10, a
MiniLM on SST-2, and smaller models trained from scratch. The papers' figures are of ImageNet and of pre-training on GPUs, so a
ratio is compared and no accuracy. *holds*: the ratio is reached; *in part*: its direction is right, its size is not; *not here*:
it is not so at this scale. Nothing is left out because it does not hold.

`python benchmarks/evidence.py` makes every row (hours), `--report` writes this page from the results that are there.
"""


def content(claim: Claim) -> dict[str, Any] | None:
    """What the claim's result file holds."""
    path = RESULTS / f"{claim.result}.json"
    return json.loads(path.read_text()) if path.exists() else None


def verdict(claim: Claim) -> Found:
    found = content(claim)
    return NOT_MEASURED if found is None else claim.read(found)


def run(claim: Claim, minutes: dict[str, float]) -> None:
    """Runs a claim's command, and keeps how long it took."""
    print(f"{claim.name}: {claim.command}", flush=True)
    began = time.perf_counter()
    program, *arguments = shlex.split(claim.command)
    done = subprocess.run(
        [sys.executable, *arguments] if program == "python" else [program, *arguments], cwd=HERE.parent
    )
    if done.returncode:
        print(f"{claim.name}: the command ended with {done.returncode}; its row stays as it was.", flush=True)
        return
    minutes[claim.result] = round((time.perf_counter() - began) / 60, 1)
    write(RESULTS / "evidence.json", json.dumps({**machine(), "minutes": minutes}, indent=1))


def page(minutes: dict[str, float]) -> str:
    lines = [ABOUT]
    for part in dict.fromkeys(claim.part for claim in CLAIMS):
        lines += [
            f"## {part}",
            "",
            "| claim | published | here | ratio | verdict |",
            "| --- | --- | --- | --- | --- |",
        ]
        mine = [claim for claim in CLAIMS if claim.part == part]
        for claim in mine:
            found = verdict(claim)
            lines.append(
                f"| {claim.text} | {claim.published} | {found.ours} | {found.ratio} | **{found.verdict}**{found.why} |"
            )
        lines.append("")
        for command in dict.fromkeys(claim.command for claim in mine):
            rows = next(c.result for c in mine if c.command == command)
            took = f", {minutes[rows]:g} min" if rows in minutes else ""
            link = f"[rows](../benchmarks/results/{rows}.md)" if (RESULTS / f"{rows}.md").exists() else "no rows yet"
            lines.append(f"- `{command}` ({link}{took})")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument(
        "--only", choices=sorted({c.result for c in CLAIMS}), help="run the command of this result, again"
    )
    options = parser.parse_args()
    kept = RESULTS / "evidence.json"
    minutes = json.loads(kept.read_text())["minutes"] if kept.exists() else {}
    if not options.report:
        for claim in {c.command: c for c in CLAIMS}.values():
            if claim.result == options.only or (options.only is None and content(claim) is None):
                run(claim, minutes)
                write(PAGE, page(minutes))
    write(PAGE, page(minutes))
    print(f"{len(CLAIMS)} claims: {PAGE}")


if __name__ == "__main__":
    main()
