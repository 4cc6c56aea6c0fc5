"""What becomes of everything when it is killed, its disk is full, a checkpoint lies, or the Hub answers wrongly.

    python benchmarks/faults.py             # the parts that have no result yet; then writes the page
    python benchmarks/faults.py --anew      # all of them, about 15 minutes of two cores (`make faults`)
    python benchmarks/faults.py --report    # writes the page from what lies in benchmarks/results

The cases stand in tests/faults, a file for each part; its tests try a sample of each. Every part runs in a process of its own,
two at a time, and its counts are kept in results/faults.json as soon as it is done. Random families, sizes and methods are drawn
by `faults_properties.py`, whose counts the page shows too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import machine, write


HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "faults.json"
PROPERTIES = HERE / "results" / "faults_properties.json"
PAGE = ROOT / "docs" / "reliability.md"
WORKERS = 2
OUTCOMES = ("whole", "absent", "typed")
WRONG = ("untyped", "half", "hung")
DRAWN = "Random families, methods and sizes"
ABOUT_DRAWN = """Every class of the tests' families, with its heads, dtypes and ties, is resized by every method to sizes that are
drawn: larger, smaller, its own, and ones that no model has. *Whole*: the plan told what came; the source, its mode
and the caller's random numbers are as they were; again with the same seed it is the same model, at its own size the
source, grown by an exact method the same function in float64; it is finite, keeps dtype and ties, runs both ways,
and saved and loaded it is equal. *Typed*: plan and resize refuse alike."""
FOUND_DRAWN = """An earlier run stopped at 9,184 of these very cases, before most hierarchies, and counted 33 wrong, which were
mended before the run below: numpy's random state moved where wav2vec 2.0 was probed (29), LiLT's quotients of a width
came to nothing (2), ALBERT's heads were refused after its plan, and Whisper refused an odd width while it was built."""


@dataclass(frozen=True)
class Part:
    """A module of tests/faults.

    Attributes:
        name: of the module.
        title: its heading on the page.
        about: what is done, and what is promised.
        found: what earlier runs found, that was mended since.
    """

    name: str
    title: str
    about: str
    found: str = ""


PARTS = (
    Part("lies", "Checkpoints that lie", """Every field of every file that is read (configs, headers and indices of
safetensors, tokenizers, image processors, sentence modules, learngenes, adapters, a Trainer's state, comparisons) is
absent, of another type, or of a value that nothing has; tensors are absent, left over, of other shapes and dtypes, or
no numbers; pickles hold code. *Whole* means honest: the result is what transformers reads there, resized. *Typed*
names the file or its folder, within 10 seconds and 1 GB. No code is ever run, and nothing is unpickled beyond plain
tensors."""),
    Part("disks", "Disks and outputs", """Operations on files fail in turn, with no space, no right and an I/O error: all that a
command does, of more than 20 so many, drawn evenly by the seed. File systems are too small, or fill up meanwhile; files
may not grow (`ulimit -f`); folders, sources and TMPDIR are read-only, full or gone; outputs are files, links, pipes,
devices, other people's folders, sources, or in and around them; two runs write to one output at once.""",
"""The first whole run counted 5 of 613 wrong, which were mended before the run below: a `build` to a link to itself trained
and left its checkpoints, `compare` read its data before it refused a file as its folder (twice), a checkpoint beyond
`save_total_limit` stayed in half where a file of it could not be deleted, and a `CheckpointSafeTrainer` in a read-only
place raised a bare OSError. A second run counted one, mended too: two comparisons with other settings, begun within 0.2 s of
each other, wrote into one folder."""),
    Part("kills", "Killed", """SIGKILL at moments drawn uniformly over a command's time, and at operations on files drawn
from all that it does, halves of weights among them. *Absent* means nothing, or what was there before. Then the same
command runs once more: it has to succeed with the same files, bit for bit, and to leave no litter."""),
    Part("pushes", "Killed pushes", """The same for pushes, to a Hub on loopback: the branch is as it was, or holds the
whole model in one commit, and the same push then succeeds."""),
    Part("hub", "A Hub that answers wrongly", """At each request that a call makes, the Hub on loopback is silent, cuts
the connection, refuses, is down, or sends a page of HTML, other bytes, another size or tag. *Typed* is an error of
the package or one of huggingface_hub's own. Afterwards the same call succeeds with the same cache,
or says that it wants force_download where the client keeps bytes that were altered on the way."""),
)  # fmt: skip
ABOUT = """# What is promised, and tried

Whatever interrupts a command, its output is **whole or absent**; whatever a file says, the result is **honest or refused**
by a [typed error](troubleshooting.md) that names it. Here that is tried, case by case, and counted. *Wrong* is what must not
be: a bare error, half an output or a dishonest result, more than 10 seconds or 1 GB for a lie, litter that stays.

"""
BELOW = """
## Not covered

- What is no process of this package's: the power that fails (files are synced before the rename that makes them visible, which is
  not tried here), a file system that loses what it has confirmed, memory that the system takes away from others.
- Windows and macOS: forks, signals and mounts are those of Linux.
- Interrupted downloads and caches of `huggingface_hub` and `datasets` beyond what a second run makes of them.
- What other libraries leave in TMPDIR, and the checkpoints there of a `distill` that was killed. The folders of a push are
  deleted by the next.
- Weights whose numbers are wrong but finite: nothing in a file tells of them.
- Other libraries' own readers on files that this package never reads (`training_args.bin` and random states are copied unread).
"""


def run(part: Part) -> dict[str, Any] | None:
    """The counts of a part; None where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "part.json"
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests", ROOT))), "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        command = [sys.executable, "-m", f"tests.faults.{part.name}", "--output", str(output)]
        done = subprocess.run(command, cwd=ROOT, env=environment)
        if done.returncode:
            print(f"{part.name} ended with {done.returncode}; its counts stay as they were.", flush=True)
            return None
        return json.loads(output.read_text())


def table(found: dict[str, Any]) -> list[str]:
    """Rows of a part: a group each, and their sum."""
    lines = ["| tried | cases | whole | absent | typed | wrong |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    groups = found["groups"]
    total = {name: sum(counts.get(name, 0) for counts in groups.values()) for name in (*OUTCOMES, *WRONG)}
    for name, counts in (*groups.items(), ("**all**", total)):
        cells = [sum(counts.values()), *(counts.get(o, 0) for o in OUTCOMES), sum(counts.get(o, 0) for o in WRONG)]
        lines.append(f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    return lines


def page(parts: dict[str, Any], head: dict[str, str]) -> str:
    lines = [ABOUT + "| part | cases | whole | absent | typed | wrong |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for part in PARTS:
        lines.append(f"| [{part.title}](#{part.title.lower().replace(' ', '-')}) {_sum(parts.get(part.name))}")
    drawn = _properties()
    lines.append(f"| [{DRAWN}](#{DRAWN.lower().replace(' ', '-').replace(',', '')}) {_sum(drawn)}")
    lines += ["", "`make faults` makes every row."]
    lines += [f"Measured with {head['versions']}; {head['machine']}." if parts else "", ""]
    for part in PARTS:
        lines += [f"## {part.title}", "", part.about, *(["", part.found] if part.found else []), ""]
        if (found := parts.get(part.name)) is None:
            lines += ["Not run.", ""]
            continue
        lines += [*table(found), ""]
        given = " ".join(f"--{name} {value}" for name, value in found["options"].items())
        lines += [f"`python -m tests.faults.{part.name} {given}`, {found['minutes']:g} minutes.", ""]
        for case in found["wrong"][:10]:
            lines.append(f"- wrong: {case['group']}, {case['name']}: {case['outcome']}")
    lines += [f"## {DRAWN}", "", ABOUT_DRAWN, "", FOUND_DRAWN, ""]
    if drawn is None:
        lines += ["Not run.", ""]
    else:
        lines += [
            *table(drawn), "",
            f"{drawn['classes']} classes of {drawn['families']} families, {drawn['families x methods made']} pairs of a family "
            f"and a method; `{drawn['head']['command']}`, {drawn['seconds'] / 60:.0f} processor minutes.",
            "", *since(drawn["faults"]),
        ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n" + BELOW


def since(faults: list[dict[str, str]]) -> list[str]:
    """What was wrong when it was drawn, and what it comes to since; each kind of fault once."""
    if not faults:
        return []
    line = f"{len(faults)} were wrong when they were drawn, and are counted so."
    if all("now" in fault for fault in faults):
        still = [fault for fault in faults if fault["now"] in ("wrong", "untyped")]
        line += f" What they show was mended then: tried again (`--again`), {len(still)} of them are wrong."
    told = [(fault["case"].split("'")[1], fault["what"][:100].replace("`", "").strip()) for fault in faults]
    return [line, "", *(f"- {family}: `{what}`" for family, what in list(dict.fromkeys(told))[:10])]


def _sum(found: dict[str, Any] | None) -> str:
    return "| not run | | | | |" if found is None else table(found)[-1].removeprefix("| **all** ")


def _properties() -> dict[str, Any] | None:
    """What drawn cases came to, with a group for each method."""
    if not PROPERTIES.exists():
        return None
    found: dict[str, Any] = json.loads(PROPERTIES.read_text())
    groups = {
        method: {"whole": n["accepted"], "typed": n["refused"], "half": n["wrong"], "untyped": n["untyped"]}
        for method, n in found["by method"].items()
    }
    return found | {"groups": groups}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anew", action="store_true", help="run the parts too that have a result")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--only", choices=[part.name for part in PARTS], help="run this part, again")
    options = parser.parse_args()
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"parts": {}}
    parts, head = saved["parts"], {k: saved[k] for k in ("machine", "versions") if k in saved}
    todo = [
        p for p in PARTS if options.only == p.name or (options.only is None and (options.anew or p.name not in parts))
    ]
    if not options.report:
        with ThreadPoolExecutor(WORKERS) as pool:
            for part, found in zip(todo, pool.map(run, todo), strict=True):
                if found is not None:
                    parts[part.name] = found
                    head = machine()
                    write(RESULTS, json.dumps({**head, "parts": parts}, indent=1) + "\n")
                    write(PAGE, page(parts, head))
    write(PAGE, page(parts, head))
    print(f"{sum(len(found['wrong']) for found in parts.values())} wrong: {PAGE}")


if __name__ == "__main__":
    main()
