"""Measures which families can be resized and how exactly they grow, and writes docs/families.md.

    python docs/make_families.py            # or: make families

Every family of the image-classification, masked-LM and sequence-classification auto mappings, and the base classes and
heads that the tests list, as a tiny model with random weights, random biases and random norm weights.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import torch  # noqa: E402
import transformers  # noqa: E402
from families import inputs_for, listed, mapping_families, model_class, tiny_config, tiny_model  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

import hf_learngene  # noqa: E402
from hf_learngene import resize  # noqa: E402
from hf_learngene.anatomy import Anatomy, anatomy_of  # noqa: E402
from hf_learngene.errors import LearngeneError, LossyGrowthError, UnsupportedFamilyError  # noqa: E402


EXACT = 1e-10  # in float64, relative; what adds up to more is no rounding
TINY = 3_000_000  # parameters; a config that stays larger than this has sizes we do not know how to make small
GROWTHS = ("width", "any width", "head size", "ffn", "depth", "all", "float32")

# What the message of a refusal says -> the words of a table cell.
SHORT = (
    ("rotates its head dimensions", "no: heads rotate"),
    ("normalises each head", "no: norm in each head"),
    ("share one set of weights", "no: layers share weights"),
    ("has no size field", "no such size"),
)
Case = tuple[str, dict[str, Any], str]  # model type, extra config, class name


@dataclass
class Measured:
    """What one class gave. `growths` holds a difference, or the words of a refusal."""

    kind: str
    label: str
    refused: str = ""  # why the family is not let in
    broken: str = ""  # why nothing could be tried
    placement: str = ""
    shrinks: str = ""
    growths: dict[str, float | str] = field(default_factory=dict)
    blocker: str = ""  # the norm that makes only whole multiples exact

    @property
    def bugs(self) -> list[str]:
        """Growths that were let through and are not exact. There must be none."""
        found = [f"shrinks: {self.shrinks}"] if self.shrinks not in ("", "yes") else []
        for name, result in self.growths.items():
            if isinstance(result, str):
                found += [f"{name}: {result}"] if result.startswith("error") else []
            elif not result <= (5e-5 if name == "float32" else EXACT):
                found.append(f"{name}: {result:.1e}")
        return found


def cases() -> list[Case]:
    """Every class to try, once: the mappings' and the listed ones, sorted by family."""
    found: dict[str, Case] = {}
    mapped = [(kind, {}, name) for kind, names in mapping_families().items() for name in names]
    for case in [*mapped, *listed()]:
        found.setdefault(label_of(case) + case[0], case)
    return sorted(found.values(), key=lambda case: case[0])


def label_of(case: Case) -> str:
    _, extra, name = case
    options = ", ".join(f"{key}={value}" for key, value in extra.items())
    return f"{name} ({options})" if options else name


# ---- one class


def measure(case: Case) -> Measured:
    """Everything about one class. Never raises: one family must not stop the page."""
    found = Measured(case[0], label_of(case))
    try:
        transformers.logging.set_verbosity(transformers.logging.CRITICAL)
        logging.disable(logging.WARNING)
        _measure(case, found)
    except UnsupportedFamilyError as error:
        found.refused = str(error)
    except Exception as error:  # whatever a family does with a tiny config
        found.broken = f"{type(error).__name__}: {first_line(error)}"
    return found


def _measure(case: Case, found: Measured) -> None:
    kind, extra, name = case
    cls = model_class(name)
    try:
        config = tiny_config(kind, getattr(cls, "main_input_name", ""), **extra)
    except Exception as error:
        # its default config is enough to be refused for what it is
        anatomy_of(transformers.CONFIG_MAPPING[kind](), cls)
        raise ValueError(f"no tiny config: {first_line(error)}") from error
    config.num_labels = 2 if "QuestionAnswering" in name else 5
    anatomy = anatomy_of(config, cls)
    if anatomy.num_parameters > TINY:
        raise ValueError(f"no tiny config: it still has {anatomy.num_parameters:,} parameters")
    found.placement = "post" if anatomy.post_norm else "pre"
    found.blocker = next((f"{n.name}" for n in anatomy.norms_that_need_multiples()), "")
    source = tiny_model(kind, name, extra)
    outputs(source, inputs_for(source))  # what does not run as it is cannot be compared with anything
    found.shrinks = shrinks(source, anatomy)
    grow_all(case, source, anatomy, found)


def shrinks(source: Any, anatomy: Anatomy) -> str:
    """`yes`, or what went wrong. A smaller width and depth by weight selection must run and be finite."""
    asked = {"hidden_size": 16} if anatomy.shared_layers else {"hidden_size": 16, "num_hidden_layers": 2}
    try:
        small = resize(source, method="weight_selection", **asked)
        finite = all(bool(t.isfinite().all()) for t in outputs(small, inputs_for(source)).values())
    except LearngeneError as error:
        return f"no: {first_line(error)}"
    except Exception as error:
        return f"error: {type(error).__name__}: {first_line(error)}"
    return "yes" if finite else "not finite"


def grow_all(case: Case, source: Any, anatomy: Anatomy, found: Measured) -> None:
    alone = growths_alone(anatomy)
    for name, requests in alone.items():
        found.growths[name] = worst(attempt(source, request) for request in requests)
    allowed = {name for name, result in found.growths.items() if not isinstance(result, str)}
    together = growth_together(anatomy, allowed)
    found.growths["all"] = attempt(source, together)
    single = tiny_model(case[0], case[2], case[1], dtype=torch.float32)
    found.growths["float32"] = attempt(single, together)


def growths_alone(anatomy: Anatomy) -> dict[str, list[dict[str, int]]]:
    """Requests that grow one thing each. The tiny source has width 24, 3 heads of 8, ffn 40 and 3 layers."""
    sizes = anatomy.sizes
    width, heads, size = sizes["hidden_size"], sizes["num_attention_heads"], sizes["head_dim"]
    larger_heads = [{"hidden_size": 2 * width, "num_attention_heads": heads}]
    if anatomy.head_dim_honoured:
        larger_heads = [{"num_attention_heads": heads, "head_dim": 2 * size}]
    found = {
        "width": [{"hidden_size": 2 * width}, {"hidden_size": 3 * width}],
        "any width": [{"hidden_size": width + 2 * size}],
        "head size": larger_heads,
        "ffn": [{"intermediate_size": 64}] if "intermediate_size" in anatomy.fields else [{"mlp_ratio": 3}],
        "depth": [{"num_hidden_layers": 5}, {"num_hidden_layers": 7}],
    }
    if anatomy.head_dim_honoured:
        found["width"].append({"num_attention_heads": 2 * heads, "head_dim": size})
    return found


def growth_together(anatomy: Anatomy, allowed: set[str]) -> dict[str, int]:
    """The largest request made of everything that is exact alone."""
    width, size = anatomy.sizes["hidden_size"], anatomy.sizes["head_dim"]
    new_size = size + size // 2 if "head size" in allowed else size
    new_width = 5 * new_size if "any width" in allowed else -(-2 * width // (width * new_size)) * width * new_size
    if "any width" not in allowed and new_size != size:
        new_width = 3 * width  # 72: six heads of 12
    request = {"hidden_size": new_width, "num_attention_heads": new_width // new_size}
    if anatomy.head_dim_honoured:
        request["head_dim"] = new_size
    if "ffn" in allowed:
        request |= {"intermediate_size": 112} if "intermediate_size" in anatomy.fields else {"mlp_ratio": 3}
    if "depth" in allowed:
        request["num_hidden_layers"] = 7
    return request


def attempt(source: Any, request: Mapping[str, int]) -> float | str:
    """The largest difference after one growth, or why it is refused."""
    try:
        grown = resize(source, method="lemon", seed=1, **request)
        return difference(source, grown, inputs_for(source))
    except LossyGrowthError:
        return "multiples only"
    except LearngeneError as error:
        return next((words for key, words in SHORT if key in str(error)), f"no: {first_line(error)}")
    except Exception as error:
        return f"error: {type(error).__name__}: {first_line(error)}"


def worst(results: Iterable[float | str]) -> float | str:
    """A refusal before an error before a number: what is refused once is not promised at all."""
    found = list(results)
    words = [r for r in found if isinstance(r, str)]
    if words:
        return next((w for w in words if w.startswith("error")), words[0])
    return max(r for r in found if not isinstance(r, str))


class WithoutCasts(TorchFunctionMode):
    """Lifts casts to float32 inside a float64 model.

    RMS norms, DeBERTa's norm and its score scale cast; such a model differs from itself by 1e-8, so a float64 figure of it
    means nothing.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            return args[0].double()
        lift = {torch.float32: torch.float64}
        args = tuple(lift.get(a, a) if isinstance(a, torch.dtype) else a for a in args)
        kwargs = {k: lift.get(v, v) if isinstance(v, torch.dtype) else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """No casts, and what a forward pass makes of its own is float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with WithoutCasts():
            yield
    finally:
        torch.set_default_dtype(before)


def outputs(model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every float tensor that a model gives."""
    exactly = in_float64() if model.dtype == torch.float64 else contextlib.nullcontext()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), exactly:
        torch.manual_seed(0)  # ViT-MAE masks at random, in eval mode too
        given = model.eval()(**inputs)
    return {k: v for k, v in given.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}


def difference(source: Any, grown: Any, inputs: Mapping[str, torch.Tensor]) -> float:
    """Largest |a - b| / max(1, |a|) over all outputs; of a wider hidden state, over the entries of the source."""
    first, second = outputs(source, inputs), outputs(grown, inputs)
    largest = 0.0
    for name, a in first.items():
        b = second[name]
        if a.shape != b.shape and "logits" not in name:
            b = b[..., : a.shape[-1]]
        if a.shape != b.shape:
            raise ValueError(f"{name}: {tuple(a.shape)} became {tuple(second[name].shape)}")
        distance = float(((a - b).abs() / a.abs().clamp_min(1)).max())
        largest = max(largest, distance if distance == distance else float("inf"))
    return largest


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"


# ---- the page


def page(results: list[Measured]) -> str:
    by_kind: dict[str, list[Measured]] = {}
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
        "## Families that are refused\n\n" + refused_table(refused),
    ]
    if untried:
        parts.append("## Families that could not be tried\n\n" + untried_table(untried))
    bugs = [f"- `{r.label}`: {'; '.join(r.bugs)}" for r in results if r.bugs]
    if bugs:
        parts.insert(1, "## Let in, but not right\n\nThese are bugs.\n\n" + "\n".join(bugs))
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """\
# Families

What hf_learngene does with each model family of transformers, measured. Written by `python docs/make_families.py`
(`make families`); do not edit.

- hf_learngene {version}, transformers {transformers}, torch {torch}, Python {python}
- {families} families, {classes} classes: those of the image-classification, masked-LM and sequence-classification auto
  mappings, and the base models and task heads of the families that the tests list
- **{resized} families ({resized_classes} classes) are resized**, {refused} are refused, {untried} could not be tried
- of the {resized} families, {exact} grow exactly wherever they are let grow (largest difference over all: {largest})

How it is measured: a tiny model (width 24, 3 heads, 3 layers, ffn 40) with random weights, random biases and random norm
weights, in float64, on random inputs; texts are padded and masked. It is grown by `method="lemon"`, and a figure is the
largest |Δ| / max(1, |output|) over all outputs: logits, or the hidden states of a base model. Exact means at most {limit:.0e}.

- *shrinks*: `weight_selection` to width 16 and 2 layers gives a model that runs and is finite. It is no statement on quality.
- *width ×k*: to 2 and 3 times the width, heads and ffn following. *any width*: to 5/3 of it.
- *head size*: twice the head size. *ffn*: 40 → 64. *depth*: 3 → 5 and 3 → 7 layers.
- *all*: everything that is exact alone, grown together; *float32*: the same in float32, where it shows only rounding.
- Several classes of a family share a row with the worst of their figures.

New layers of a post-norm family are exact up to the epsilon of its norms, so the tiny models have BERT's 1e-12; with the
1e-5 of RoBERTa's checkpoints it is about 1e-5. Some families cast to float32 inside (DeBERTa's norm and score scale, RMS
norms); they are measured with these casts lifted, since with them a model differs from itself by 1e-8. Families that take
more than text or one image (boxes, entities, images beside text) are measured on text or image alone.
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
        shrunk = "yes" if all(r.shrinks == "yes" for r in results) else "**no**"
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
            lines.append(f"- `{kind}`: " + "; ".join(f"`{norm}`" for norm in norms))
    text = (
        "## Why only whole multiples\n\nA width that is no multiple is exact where every norm reads a plain sum of what writes"
        " the stream: the new entries can then hold the mean of the others. It is not exact where a norm reads another"
        " norm's output (post-norm layers, a normalised embedding) or an activation's (the transform before a masked-LM"
        " decoder). The first such norm of each family, `*` for a layer:\n\n"
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
        lambda why: "convolutional or hierarchical: its config has no one width or no one depth",
    ),
    ("is a hierarchical family", lambda why: "hierarchical: its stages have sizes of their own"),
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
        found = Measured(case[0], label_of(case), broken=f"{type(error).__name__}: {first_line(error)}")
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
    results = run([case for case in cases() if re.search(given.only, case[0])], given.workers)
    given.output.write_text(page(results), encoding="utf-8")
    bugs = sum(bool(result.bugs) for result in results)
    seconds = time.perf_counter() - start
    print(f"{given.output}: {len(results)} classes in {seconds:.0f} s, {bugs} let in but not right", file=sys.stderr)
    return 1 if bugs else 0


if __name__ == "__main__":
    raise SystemExit(main())
