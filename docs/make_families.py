"""Writes docs/families.md: which families can be resized and how exactly they grow, measured.

python docs/make_families.py            # or: make families
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import torch
import transformers
from measure_families import DEPTH_ONLY, EXACT, GROWTHS, ROOT, Case, Measured, cases, first_line, measure, started

import hf_learngene


# ---- the page


def page(everything: list[Measured]) -> str:
    by_kind: dict[str, list[Measured]] = {}
    results = [r for r in everything if not r.beyond and not r.section]
    for result in results:
        by_kind.setdefault(result.kind, []).append(result)
    resized = {k: [r for r in rs if r.growths] for k, rs in by_kind.items() if any(r.growths for r in rs)}
    refused = {k: rs for k, rs in by_kind.items() if k not in resized and any(r.refused for r in rs)}
    untried = {k: rs for k, rs in by_kind.items() if k not in resized and k not in refused}
    parts = [
        introduction(by_kind, resized, refused, untried),
        "## Families that are resized\n\n" + resized_table(resized),
        width_notes(resized),
        partly(by_kind, resized),
        parts_of([r for r in everything if r.section]),
        beyond([r for r in everything if r.beyond]),
        "## Families that are refused\n\n" + refused_table(refused),
    ]
    if untried:
        parts.append("## Families that could not be tried\n\n" + untried_table(untried))
    bugs = [f"- `{r.label}`: {'; '.join(r.bugs)}" for r in everything if r.bugs]
    if bugs:
        parts.insert(1, "## Let in, but not right\n\nThese are bugs.\n\n" + "\n".join(bugs))
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """\
# Families

What hf_learngene does with each model family of transformers, measured. Written by `python docs/make_families.py`
(`make families`); do not edit.

- hf_learngene {version}, transformers {transformers}, torch {torch}, Python {python}
- {families} families, {classes} classes: those of the auto mappings of classification (images, texts, sounds, videos),
  multiple choice and masked LM, and the base models and task heads of the families that the tests list
- **{resized} families ({resized_classes} classes) are resized**, {refused} are refused, {untried} could not be tried
- of the {resized} families, {exact} grow exactly wherever they are let grow (largest difference over all: {largest})

How it is measured: a tiny model (width 24, 3 heads, 3 layers, ffn 40) with random weights, random biases and random norm
weights, in float64, on random inputs; texts are padded and masked. It is grown by `method="lemon"`, and a figure is the
largest |Δ| / max(1, |output|) over all outputs: logits, or the hidden states of a base model. Exact means at most {limit:.0e}.

- *shrinks*: `weight_selection` to width 16 and 2 layers gives a model that runs and is finite; *its depth* alone where the
  family counts its width together with other fields. It is no statement on quality.
- *width ×k*: to 2 and 3 times the width, heads and ffn following. *any width*: to 5/3 of it.
- *head size*: twice the head size. *ffn*: 40 → 64. *depth*: 3 → 5 and 3 → 7 layers.
- *all*: everything that is exact alone, grown together; *float32*: the same in float32, where it shows only rounding.
- Of a hierarchy every stage is made smaller or larger; its tiny models have stages of 2, 1, 3 and 2 blocks.
- Several classes of a family share a row with the worst of their figures.

New layers of a post-norm family are exact up to the epsilon of its norms, so the tiny models have BERT's 1e-12; with the
1e-5 of RoBERTa's checkpoints, or where no field of the config says it (`wav2vec2-conformer`), it is about 1e-5. Some families
cast to float32 inside (DeBERTa's norm and score scale, RMS norms); they are measured with these casts lifted, since with them a
model differs from itself by 1e-8. The first table is measured on what a class reads as it stands; what takes more (masks,
entities) has a table of its own.
"""


def introduction(by_kind, resized, refused, untried) -> str:
    figures = [
        g
        for rs in resized.values()
        for r in rs
        for n, g in r.growths.items()
        if n != "float32" and isinstance(g, float)
    ]
    return INTRODUCTION.format(
        version=hf_learngene.__version__,
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        python=".".join(map(str, sys.version_info[:2])),
        families=len(by_kind),
        classes=sum(map(len, by_kind.values())),
        resized=len(resized),
        resized_classes=sum(map(len, resized.values())),
        refused=len(refused),
        untried=len(untried),
        exact=sum(not any(r.bugs for r in rs) for rs in resized.values()),
        largest=number(max(figures, default=0.0)),
        limit=EXACT,
    ).rstrip()


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def resized_table(resized: Mapping[str, list[Measured]]) -> str:
    heads = [
        "family",
        "classes tried",
        "norm",
        "shrinks",
        "width ×k",
        "any width",
        "head size",
        "ffn",
        "depth",
        "all",
        "float32",
    ]
    rows = []
    for kind, results in sorted(resized.items()):
        placement = "/".join(sorted({r.placement for r in results}, reverse=True))
        found = {r.shrinks for r in results}
        shrunk = found.pop() if found in ({"yes"}, {DEPTH_ONLY}) else "**no**"
        cells = [cell([r.growths[name] for r in results]) for name in GROWTHS]
        rows.append([f"`{kind}`", classes_of(results), placement, shrunk, *cells])
    return table(heads, rows)


def classes_of(results: list[Measured]) -> str:
    """Class names of one family, without the stem that they share: `Bert`: Model, ForMaskedLM."""
    names = [result.label for result in results]
    stem = re.split(r"(?=For[A-Z]|With[A-Z]|Model)", names[0])[0]
    if not all(name.startswith(stem) for name in names):
        return ", ".join(names)
    return f"{stem}: {', '.join(name.removeprefix(stem) for name in names)}"


def cell(results: list[float | str]) -> str:
    """The worst figure; where classes differ, both."""
    figures = [r for r in results if not isinstance(r, str)]
    words = list(dict.fromkeys(r for r in results if isinstance(r, str)))
    shown = [number(max(figures))] if figures else []
    if shown and words:
        shown[0] += f" ({len(figures)} of {len(results)} classes)"
    return "; else ".join([*shown, *words])


def number(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-")


def width_notes(resized: Mapping[str, list[Measured]]) -> str:
    """Which norm makes only whole multiples exact, family by family."""
    lines = []
    for kind, results in sorted(resized.items()):
        norms: dict[str, list[str]] = {}
        for result in results:
            if result.growths["any width"] == "multiples only":
                norms.setdefault(shape_of(result.blocker), []).append(result.label)
        if norms:
            lines.append(f"- `{kind}`: " + "; ".join(norm if " " in norm else f"`{norm}`" for norm in norms))
    text = (
        "## Why only whole multiples\n\nA width that is no multiple is exact where every norm reads a plain sum of what writes"
        " the residual stream: the new entries can then hold the mean of the others. It is not exact where a norm reads"
        " another norm's output (post-norm layers, a normalised embedding), an activation's (the transform before a masked-LM"
        " decoder), or all queries; nor between the stages of a hierarchy, nor where a plain pass does not reach what reads the"
        " width. The first such norm of each family, or what stands for one, `*` for a layer:\n\n"
    )
    return text + "\n".join(lines)


def shape_of(name: str) -> str:
    """A norm's name from its layer on, without the layer's number and the model's own prefix."""
    return re.sub(r"\.\d+\.", ".*.", name)


def partly(by_kind: Mapping[str, list[Measured]], resized: Mapping[str, list[Measured]]) -> str:
    """Classes that are refused although others of their family are not."""
    rest = [r for kind in resized for r in by_kind[kind] if not r.growths]
    if not rest:
        return ""
    lines = [f"- `{r.label}`: {reason(r.refused or r.broken)}" for r in rest]
    return "Classes of these families that are not resized:\n\n" + "\n".join(lines)


PARTS = """\
## Models of several parts

Two towers (CLIP), or a backbone under a head (Depth Anything): each section of the config is resized by itself, the others stay
as they are. Every output of the whole model is compared: embeddings, logits, hidden states of both. Where not every part is
named here, the other is a decoder, or is refused.

"""


def parts_of(results: list[Measured]) -> str:
    """A row for each class and section; empty where none was measured."""
    if not results:
        return ""
    rows = [
        [
            f"`{r.label}`",
            f"`{r.section}`",
            *([cell([r.growths[name]]) for name in GROWTHS] if r.growths else ["refused"]),
        ]
        for r in results
    ]
    refused = [f"- `{r.label}`, `{r.section}`: {reason(r.refused or r.broken)}" for r in results if not r.growths]
    shown = table(["class", "section", *GROWTHS], (row + [""] * (2 + len(GROWTHS) - len(row)) for row in rows))
    return PARTS + "\n\n".join([shown, *(["\n".join(refused)] if refused else [])])


BEYOND = """\
## Beyond a plain pass

Roles are read off one plain forward pass. What it does not reach (a mask token, an image's projector, a branch that a config
turns on) is measured here, with inputs that do reach it. Where neither the pass nor a name tells what a tensor does, growth
that would have to guess is refused.

"""


def beyond(results: list[Measured]) -> str:
    rows = [
        [
            f"`{r.label}`",
            r.beyond.rstrip("."),
            *(cell([r.growths[name]]) if r.growths else "refused" for name in GROWTHS),
        ]
        for r in results
    ]
    return BEYOND + table(["class", "inputs", *GROWTHS], rows)


def refused_table(refused: Mapping[str, list[Measured]]) -> str:
    """One row for each reason, with the families it holds for."""
    reasons: dict[str, list[str]] = {}
    for kind, results in sorted(refused.items()):
        why = next(r.refused for r in results if r.refused)
        reasons.setdefault(group(why, kind), []).append(f"`{kind}`")
    ordered = sorted(reasons.items(), key=lambda pair: -len(pair[1]))
    return table(["reason", "families"], ([why, ", ".join(kinds)] for why, kinds in ordered))


GROUPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("decoder-only", lambda why: "decoder-only model"),
    ("encoder-decoder", lambda why: "encoder-decoder model"),
    (
        "convolutional or hierarchical",
        lambda why: "convolutional or hierarchical, and no stages with norms that its config lists",
    ),
)


def group(why: str, kind: str) -> str:
    """Reasons that many families share, in one wording; others as the error says them."""
    return next((words(why) for key, words in GROUPS if key in why), reason(why).replace(f"`{kind}`: ", ""))


def reason(why: str) -> str:
    """The error's text up to its advice."""
    for advice in (" hf_learngene resizes", " Declare ", " You can install", "Errors:"):
        why = why.partition(advice)[0]
    why = re.sub(r"\s+", " ", why).strip()
    return why if len(why) < 230 else why[:230].rsplit(" ", 1)[0] + " …"


def untried_table(untried: Mapping[str, list[Measured]]) -> str:
    rows = ([f"`{kind}`", classes_of(results), reason(results[0].broken)] for kind, results in sorted(untried.items()))
    return table(["family", "classes", "reason"], rows)


# ---- the command


def run(todo: list[Case], workers: int) -> list[Measured]:
    """Measures in processes of their own, so that neither a crash nor a leak of one class reaches the rest."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(measure, case) for case in todo]
        return [answer(future, case) for future, case in zip(futures, todo, strict=True)]


def answer(future: Future[Measured], case: Case) -> Measured:
    try:
        found = future.result()
    except Exception as error:  # the process died
        found = started(case)
        found.broken = f"{type(error).__name__}: {first_line(error)}"
    if found.bugs:
        print(f"NOT EXACT {found.kind} {found.label}: {'; '.join(found.bugs)}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "families.md", help="the page to write")
    parser.add_argument("--only", default="", help="a regular expression over model types")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    given = parser.parse_args()
    start = time.perf_counter()
    results = run([case for case in cases() if re.search(given.only, case.kind)], given.workers)
    given.output.write_text(page(results), encoding="utf-8")
    bugs = sum(bool(result.bugs) for result in results)
    seconds = time.perf_counter() - start
    print(f"{given.output}: {len(results)} classes in {seconds:.0f} s, {bugs} let in but not right", file=sys.stderr)
    return 1 if bugs else 0


if __name__ == "__main__":
    raise SystemExit(main())
