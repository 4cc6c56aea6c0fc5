"""The claims of docs/evidence.md: what is published, the command that measures it here, and how its result is read."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


Content = dict[str, Any]
THIRD = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}


class Found(NamedTuple):
    """What a result says of a claim.

    Attributes:
        ours: the figure, mean ± standard deviation where there are several seeds.
        ratio: what is compared with the published ratio.
        verdict: `holds`, `in part`, `not here` or `not measured`.
        why: the reason, begun by a colon; nothing where it holds.
    """

    ours: str
    ratio: str
    verdict: str
    why: str = ""


NOT_MEASURED = Found("–", "–", "not measured")


class Claim(NamedTuple):
    """One row.

    Attributes:
        name: for the log.
        part: heading that it stands under.
        text: the claim.
        published: the paper's figure.
        command: what measures it here.
        result: name of the file in results/ that the command writes.
        read: result -> what it says.
    """

    name: str
    part: str
    text: str
    published: str
    command: str
    result: str
    read: Callable[[Content], Found]


def told(values: Sequence[float], digits: int = 1) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def judged(value: float, whole: float, part: float) -> str:
    """`holds` from `whole` on, `in part` from `part` on."""
    return "holds" if value >= whole else "in part" if value >= part else "not here"


def accuracies(rows: Sequence[Content], method: str, **wanted: Any) -> list[float]:
    """Accuracies in % of the cells of a method with these sizes."""
    return [
        100 * r["accuracy"]
        for r in rows
        if r["method"] == method and all(r["sizes"].get(k) == v for k, v in wanted.items())
    ]


# ---- weight selection and rankings, after a fine-tune


def sooner(method: str, published: float, holds: Callable[[float], bool], why: str) -> Callable[[Content], Found]:
    """How many times sooner a start is where random init ends."""

    def read(content: Content) -> Found:
        from selection import STEPS, of, steps_to_random

        rows = [r for r in content["rows"] if r["method"] != "source"]
        if not of(rows, method):
            return NOT_MEASURED
        steps = steps_to_random(rows, method)
        reached = [str(s) for s in steps if s is not None]
        times = statistics.mean(STEPS / (s or STEPS) for s in steps) if None not in steps else 0.0
        word = "holds" if holds(times) else "in part" if times > 1 and published > 1 else "not here"
        ratio = f"{times:.1f} × sooner" if times else "–"
        shown = f"at {', '.join(reached)} of {STEPS} steps" if reached else f"not in {STEPS} steps"
        if reached and len(reached) < len(steps):
            shown += f", {len(steps) - len(reached)} of {len(steps)} seeds never"
        return Found(shown, ratio, word, "" if word == "holds" else f": {why}")

    return read


def ends_above(content: Content) -> Found:
    """What a training from selected weights ends at, beside random init."""
    from selection import of

    rows = [r for r in content["rows"] if r["method"] != "source"]
    random, selected = ([100 * r["accuracy"] for r in of(rows, m)] for m in ("random", "weight selection"))
    if not random or not selected:
        return NOT_MEASURED
    gain = statistics.mean(selected) - statistics.mean(random)
    return Found(f"{told(random)} → {told(selected)}", f"{gain:+.1f} points", judged(gain, 1.7, 0.1))


def with_distillation(content: Content) -> Found:
    """Logits of the source and weights of the source: each alone, and both."""
    from selection import of

    rows = [r for r in content["rows"] if r["method"] != "source"]
    cells = [of(rows, "random", True), of(rows, "weight selection"), of(rows, "weight selection", True)]
    if not all(cells):
        return NOT_MEASURED
    logits, weights, both = ([100 * r["accuracy"] for r in cell] for cell in cells)
    gain = statistics.mean(both) - max(statistics.mean(logits), statistics.mean(weights))
    return Found(
        f"{told(logits)} / {told(weights)} / {told(both)}",
        f"{gain:+.1f} points over the better one",
        judged(gain, 0.5, 0.0),
    )


def selection_after_fine_tune(content: Content) -> Found:
    rows = {r["method"]: r for r in content["found"][0]["rows"]}
    random, selected = (100 * rows[m]["after"] for m in ("random", "weight selection"))
    return Found(
        f"{random:.1f} → {selected:.1f}", f"{selected - random:+.1f} points", judged(selected - random, 1.7, 0.1)
    )


# ---- growth


def saved_by(method: str, published: float, target: str = "both") -> Callable[[Content], Found]:
    def read(content: Content) -> Found:
        from growth import METHODS, saved

        assert method in METHODS
        values = saved(content["rows"], method, target, True)
        reached = [v for v in values if v is not None]
        if not values:
            return NOT_MEASURED
        if not reached:
            return Found("never there", "–", "not here", ": scratch's loss was not reached")
        share = statistics.mean(reached) / published
        why = (
            f": {len(reached)} of {len(values)} seeds came to scratch's loss; small models, 3,000 steps"
            if share < 1
            else ""
        )
        if min(reached) >= 100:
            why = ", but says little: the small source is there before it is grown"
        return Found(f"{told(reached)} % saved", f"{share:.2f} of it", judged(share, 1.0, 0.1), why)

    return read


# ---- shrinking without training


def kept(method: str, aim: float, chance: float, **sizes: Any) -> Callable[[Content], Found]:
    def read(content: Content) -> Found:
        source = next(r for r in content["rows"] if r["method"] == "source")["accuracy"] * 100
        values = accuracies(content["rows"], method, **sizes)
        if not values:
            return NOT_MEASURED
        share = (statistics.mean(values) - 100 * chance) / (source - 100 * chance)
        why = "" if share >= aim else f": our own aim was {aim:.0%}"
        ranks = not chance  # correlations: the source's is 1, and chance is no level but zero
        return Found(
            f"{told([v / 100 for v in values], 2)} by rank correlation"
            if ranks
            else f"{told(values)} % of {source:.1f}",
            f"{share:.1%} of the source's" if ranks else f"{share:.1%} of the gap over chance",
            judged(share, aim, aim - 0.1),
            why,
        )

    return read


def ahead_of_rivals(content: Content) -> Found:
    rows = content["rows"]
    shares = sorted({r["sizes"]["share"] for r in rows if "share" in r.get("sizes", {})}, reverse=True)
    gaps = []
    for share in shares:
        mine = [r for r in rows if r.get("sizes", {}).get("share") == share]
        best: dict[str, float] = {}
        for row in mine:
            best[row["method"]] = max(best.get(row["method"], 0.0), 100 * row["accuracy"])
        own = max((v for m, v in best.items() if m.startswith("calibrated")), default=None)
        others = max((v for m, v in best.items() if not m.startswith("calibrated")), default=None)
        if own is not None and others is not None:
            gaps.append((share, own - others))
    if not gaps:
        return NOT_MEASURED
    ahead = sum(gap > 0 for _, gap in gaps)
    shown = ", ".join(f"{gap:+.1f} at {share:.0%}" for share, gap in gaps)
    return Found(shown, f"ahead at {ahead} of {len(gaps)}", judged(ahead / len(gaps), 1.0, 0.5))


# ---- learngenes


def at(rows: Sequence[Content], start: str, depth: int, sandwich: str = "", when: str = "load") -> list[float]:
    return [
        100 * (r["load"] if when == "load" else next(iter(r["tuned"].values())))
        for r in rows
        if r["start"] == start
        and r["sandwich"] == sandwich
        and r["num_hidden_layers"] == depth
        and "hidden_size" not in r
    ]


def beside_dense(kind: str, share: float) -> Callable[[Content], Found]:
    """A kind beside the layers of a dense student that was distilled for as long, both fine-tuned: the worst depth."""

    def read(content: Content) -> Found:
        rows = content["rows"]
        gaps = []
        for depth in (3, 6, 9):
            mine, dense = (at(rows, start, depth, when="tuned") for start in (kind, "dense"))
            if not mine or not dense:
                return NOT_MEASURED
            gaps.append(statistics.mean(mine) - statistics.mean(dense))
        stored = next(r["stored"] for r in rows if r["start"] == kind)
        shown = " / ".join(f"{g:+.1f}" for g in gaps)
        why = (
            ""
            if min(gaps) >= -0.5
            else f": behind by {-min(gaps):.1f} points at worst, after 150 steps of distillation each"
        )
        word = "holds" if min(gaps) >= -0.5 and stored <= share else "in part" if max(gaps) >= -0.5 else "not here"
        return Found(f"{shown} points at 3 / 6 / 9 layers", f"{stored:.0%} stored", word, why)

    return read


def against_n(content: Content) -> Found:
    from learngenes_trained import measured, totals

    rows = content["rows"]
    mine = [r for r in rows if r["method"] == "condensed" and "tune" in r]
    each = [r for r in rows if r["method"] == "each" and "tune" in r]
    if not mine or not each:
        return NOT_MEASURED
    many, one = totals(each, "each"), totals(mine, "condensed")
    sizes = [r["sizes"] for r in mine if r["seed"] == mine[0]["seed"]]
    gaps = [
        statistics.mean(measured(rows, "condensed", s)[1]) - statistics.mean(measured(rows, "each", s)[1])
        for s in sizes
    ]
    training, storage = many[1] / one[1], many[0] / one[0]
    seeds = len({r["seed"] for r in mine})
    return Found(
        f"{training:.1f} × the training, {storage:.1f} × the storage, {min(gaps):+.1f} to {max(gaps):+.1f} points"
        f" ({seeds} seed{'s' if seeds > 1 else ''})",
        f"{len(sizes)} sizes",
        "holds" if min(gaps) >= 0 and storage >= len(sizes) else "in part",
        ": n × the training needs n sizes of equal cost; ours are smaller ones too" if training < len(sizes) else "",
    )


def before_training(content: Content) -> Found:
    rows = content["rows"]
    own = [statistics.mean(accuracies(rows, "condensed, 512 examples", num_hidden_layers=d)) for d in (12, 9, 6, 4)]
    others = [
        max(
            statistics.mean(a)
            for kind in ("sws", "tleg", "fine", "wave", "lets")
            for m in (kind, f"{kind}, no data", f"{kind}, 512 examples")
            if (a := accuracies(rows, m, num_hidden_layers=d))
        )
        for d in (12, 9, 6, 4)
    ]
    shown = " / ".join(f"{v:.1f}" for v in own)
    best = " / ".join(f"{v:.1f}" for v in others)
    return Found(
        f"{shown} % at 12 / 9 / 6 / 4 layers", f"best other kind: {best}", "holds" if min(own) >= 58 else "in part"
    )


SELECTION, GROWTH, CLOSED, GENES = "Selection of weights", "Growth", "Shrinking before any training", "Learngenes"
_COMPARE = "python benchmarks/compare.py --task {} --steps 60 --eval 1000"
_SELECTION = "python benchmarks/selection.py --seeds 0 1 2 --limit 2000"
_GROWTH = "python benchmarks/growth.py --task {} --seeds 0 1 2"
_SYNTHETIC = "python benchmarks/synthetic.py --task {} --seeds 0 1 2 --split test{}"
_GENES = (
    "python benchmarks/learngenes.py --task images --steps 150 --tune-steps 40 --batch 32 --rate 0.001 --rates 0.0003 "
    "--random-rates 0.001 --seeds 0 1 2 --split test --test-limit 2000"
)

CLAIMS: tuple[Claim, ...] = (
    Claim("selection, steps", SELECTION, "Weight selection (2311.18823) is where random init ends in a third of its steps",
          "1/3", _SELECTION, "selection_images",
          sooner("weight selection", 3, lambda times: times >= 3, "300 steps here, 300 epochs there")),
    Claim("selection, images", SELECTION, "and ends above it: ViT-T, ImageNet-1K; here ViT-S at a quarter, CIFAR-10",
          "73.9 → 75.6", _SELECTION, "selection_images", ends_above),
    Claim("selection, text", SELECTION, "the same for MiniLM at a quarter, SST-2",
          "–", _COMPARE.format("text"), "compare_text", selection_after_fine_tune),
    Claim("selection, consistency", SELECTION, "Weight selection is not there as soon where each tensor keeps entries of its own",
          "77.4 of 81.4 %", _SELECTION, "selection_images",
          sooner("weight selection, without consistency", 1, lambda times: times < 3, "it is as soon there")),
    Claim("selection, distilled", SELECTION, "It adds to distillation: the source's logits alone, its weights alone, both",
          "74.8 / 75.5 / 76.0", _SELECTION, "selection_images", with_distillation),
    Claim("front, steps", SELECTION, "FRONT (2603.07523) is where random init ends sooner",
          "up to 15 × sooner", _SELECTION, "selection_images",
          sooner("front", 15, lambda times: times >= 15, "300 steps here, whole trainings there")),
    *(
        Claim(f"{method}, {task}", GROWTH, f"{name} saves compute, {kind}, width and depth doubled", f"{published:g} %",
              _GROWTH.format(task), f"growth_{task}", saved_by(method, published))
        for task, kind, rows in (
            ("images", "ViT", (("lemon", "LEMON (2310.07999)", 56.7),
                               ("bert2bert (aki)", "bert2BERT (2110.07143, by 2310.10699)", 64.0),
                               ("ligo", "LiGO (2303.00980, by 2310.10699)", 55.3), ("mango", "Mango (2310.10699)", 76.0))),
            ("text", "BERT", (("lemon", "LEMON (2310.07999)", 33.2), ("bert2bert (aki)", "bert2BERT (2110.07143)", 45.0),
                              ("mango", "Mango (2310.10699)", 39.2))),
        )
        for method, name, published in rows
    ),
    *(
        Claim(f"lemon, {task}, {target}", GROWTH, f"LEMON (2310.07999) saves compute, {kind}, {target} alone doubled",
              f"{published:g} %, both", _GROWTH.format(task), f"growth_{task}", saved_by("lemon", published, target))
        for task, kind, published in (("images", "ViT", 56.7), ("text", "BERT", 33.2))
        for target in ("width", "depth")
    ),
    Claim("no data, images", CLOSED, "A ViT-S at a third works with no data at all: CIFAR-10",
          "nobody's; our aim 97 % of the gap", _SYNTHETIC.format("images", " --limit 2000"), "synthetic_images",
          kept("synthetic", 0.97, 0.1, **THIRD, head_dim=64)),
    Claim("no data, text", CLOSED, "MiniLM at half works with no data at all: SST-2",
          "nobody's; our aim 95 %", _SYNTHETIC.format("text", ""), "synthetic_text",
          kept("synthetic", 0.95, 0.5, intermediate_size=384)),
    Claim("no data, sentences", CLOSED, "A sentence encoder at half orders pairs of sentences as before, with no data",
          "nobody's; our aim 0.95", _SYNTHETIC.format("sentences", ""), "synthetic_sentences",
          kept("synthetic", 0.95, 0.0, intermediate_size=384)),
    Claim("rivals, images", CLOSED,
          "`calibrated` is ahead of K-prune, Kwon, CORP and SnapViT at equal parameters: ViT-S, 512 images", "–",
          "python benchmarks/rivals.py --task images --seeds 0 --split test --limit 2000", "rivals_images", ahead_of_rivals),
    Claim("rivals, text", CLOSED, "and of TextPruner too: MiniLM, 512 sentences",
          "–", "python benchmarks/rivals.py --task text --seeds 0 --split test", "rivals_text", ahead_of_rivals),
    *(
        Claim(f"{kind}, dense", GENES, f"{name}'s descendants beside a dense student's layers, fine-tuned alike", published,
              _GENES, "learngenes_images", beside_dense(kind, share))
        for kind, name, published, share in (
            ("sws", "SWS (2404.16897)", "level or above, 20 × fewer stored", 0.6),
            ("wave", "WAVE (2406.17503)", "above, 3.3 % stored", 0.6),
            ("tleg", "TLEG", "level, 19 × fewer stored", 0.4),
            ("fine", "FINE", "above TLEG, about 35 % stored", 0.4),
            ("lets", "LeTs", "level, 20 × fewer stored", 0.4),
        )
    ),
    Claim("against n models", GENES, "One learngene in the place of n models, each distilled and stored (WAVE, SWS): `condensed`",
          "n × the training; 5 to 20 × the storage", "python benchmarks/learngenes.py --trained --task images --limit 2000",
          "trained_images", against_n),
    Claim("before training", GENES, "`condensed` at a third makes working models before any training",
          "nobody's; our aim 72 / 71 / 67 / 58 %", "python benchmarks/learngenes.py --untrained --task images --limit 2000",
          "untrained_images", before_training),
)  # fmt: skip
