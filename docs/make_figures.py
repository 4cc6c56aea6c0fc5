"""Draws the figures of docs/methods, docs/lemon.md and docs/learngenes.md, each computed by the package itself.

    python docs/make_figures.py   # all of docs/images/method_*.png

What needs the ViT and CIFAR-10 of `../shared/data` is left out, with a message, where that folder is absent.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from canvas import DIVERGING, GONE, INK, KEPT, OTHER, STYLE, THIRD, WIDTH, box, canvas, matrix, save  # noqa: E402
from learngene_task import DATA, TASKS, teacher_of  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from hf_learngene import AutoLearngene, resize  # noqa: E402
from hf_learngene.anatomy import anatomy_of  # noqa: E402
from hf_learngene.calibration.examples import Examples  # noqa: E402
from hf_learngene.maps import LayerMap  # noqa: E402
from hf_learngene.methods import Front, Layers, WeightSelection, make_method  # noqa: E402
from hf_learngene.pruning.criteria import Scores  # noqa: E402


LAYER = 5  # of the ViT, whose units and heads are shown
CONSTANT = Front(scaling="constant")  # the figures of front and random show this scale
QUARTER = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
HALF = {"units": 768, "heads": 3, "width": 192, "layers": 6}


def tiny(width: int, heads: int, ffn: int, layers: int = 2) -> transformers.ViTForImageClassification:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=width, num_attention_heads=heads, intermediate_size=ffn, num_hidden_layers=layers, image_size=8, patch_size=4
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def number(*biases: torch.Tensor) -> None:
    """Numbers the entries of vectors, so that those of a resized model tell which were taken."""
    with torch.no_grad():
        for bias in biases:
            bias.copy_(torch.arange(len(bias)))


# ---- methods that look at nothing


def weight_selection() -> None:
    source = tiny(8, 2, 12)
    layer = source.vit.layers[0]
    number(layer.mlp.fc1.bias, layer.layernorm_after.weight)
    small = resize(source, method="weight_selection", hidden_size=6, num_attention_heads=2, intermediate_size=6)
    made = small.vit.layers[0]
    rows, columns = (v.detach().int().tolist() for v in (made.mlp.fc1.bias, made.layernorm_after.weight))
    before, after = layer.mlp.fc1.weight.detach(), made.mlp.fc1.weight.detach()
    assert torch.equal(after, before[rows][:, columns])

    figure = plt.figure(figsize=(WIDTH, 5.6), linewidth=2)
    above, below = figure.subfigures(2, 1, height_ratios=[3.2, 2.4])
    left, right = above.subplots(1, 2, width_ratios=[8, 6])
    limit = float(before.abs().max())
    matrix(left, before, "fc1, 12 units × width 8", "entry of the stream", "ffn unit", limit)
    for row in range(12):
        for column in range(8):
            chosen = row in rows and column in columns
            box(left, column, row, **({} if chosen else {"fill": True, "fc": "white", "alpha": 0.8, "ec": "none"}))
    matrix(right, after, "what is made of it, 6 × 6", "", "", limit)
    right.set_xticks(range(6), [str(c) for c in columns])
    right.set_yticks(range(6), [str(r) for r in rows])
    right.set_xlabel("came from entry")
    right.set_ylabel("came from unit")

    axis = below.subplots()
    rows_of = [
        ("uniform, flat", "q", {}),
        ("uniform, headwise", "q", {"head_selection": "headwise"}),
        ("consecutive", "q", {"element_selection": "consecutive"}),
        ("random: q", "q", {"element_selection": "random"}),
        ("random: k", "k", {"element_selection": "random"}),
        ("random_inconsistent: q", "q", {"element_selection": "random_inconsistent"}),
        ("random_inconsistent: k", "k", {"element_selection": "random_inconsistent"}),
    ]
    for place, (_, which, options) in enumerate(rows_of):
        model = tiny(24, 4, 24)
        attention = model.vit.layers[0].attention
        number(attention.q_proj.bias, attention.k_proj.bias)
        made = resize(model, method="weight_selection", hidden_size=12, **options)
        taken = made.vit.layers[0].attention.get_submodule(f"{which}_proj").bias.detach().int().tolist()
        for entry in range(24):
            new = taken.index(entry) // 6 if entry in taken else None
            color = "white" if new is None else (KEPT, OTHER)[new]
            axis.add_patch(Rectangle((entry, place + 0.1), 1, 0.8, fc=color, ec="#999999", lw=0.6))
    for head in range(5):
        axis.axvline(6 * head, color=INK, lw=1.6)
    axis.set_xlim(-0.1, 24.1)
    axis.set_ylim(len(rows_of), 0)
    axis.set_yticks([i + 0.5 for i in range(len(rows_of))], [name for name, _, _ in rows_of])
    axis.set_xticks([3, 9, 15, 21], [f"head {i}" for i in range(4)])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    below.suptitle(
        "which of 4 heads × 6 entries make new head 0 (blue) and new head 1 (orange)", x=0.01, ha="left", fontsize=10
    )
    save(figure, "weight_selection")


def layers() -> None:
    deep, shallow = (anatomy_of(tiny(8, 2, 8, n).config, transformers.ViTForImageClassification) for n in (12, 6))
    six = list(range(6))
    maps = [
        ("weight_selection\nfirst (default)", 12, WeightSelection().depth_map(deep, 6)),
        ("layer_map=\n[0, 2, 4, 7, 9, 11]", 12, Layers([0, 2, 4, 7, 9, 11]).depth_map(deep, 6)),
        ("layer_map=\n[0, …, 5, 0, …, 5]", 6, Layers(six + six).depth_map(shallow, 12)),
        ("layer_map=\n[0, 0, 1, 1, …, 5, 5]", 6, Layers([i for i in six for _ in "ab"]).depth_map(shallow, 12)),
    ]
    assert [x.index for x in LayerMap.spread(12, 6)] == [x.index for x in maps[1][2]]
    figure, axes = canvas(4.3, ncols=4)
    for axis, (title, depth, layer_map) in zip(axes, maps, strict=True):
        used = {x.index for x in layer_map}
        for side, count in ((0, depth), (1, len(layer_map))):
            for i in range(count):
                stays = side == 1 or i in used
                color = (KEPT, OTHER)[side] if stays else "#EEEEEE"
                ink = "#888888" if not stays else "white" if side == 0 else INK
                frame = {"boxstyle": "round,pad=0.22", "fc": color, "ec": "none"}
                axis.text(side, i, str(i), ha="center", va="center", fontsize=9, color=ink, bbox=frame, zorder=3)
        for new, layer in enumerate(layer_map):
            axis.plot([0.12, 0.86], [layer.index, new], color=INK, lw=1.1, zorder=1)
        axis.set_title(title, fontsize=9.5)
        axis.set_xlim(-0.25, 1.25)
        axis.set_ylim(11.6, -0.6)
        axis.set_xticks([0, 1], ["source", "target"])
        axis.set_yticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    save(figure, "layers")


def lemon() -> None:
    torch.manual_seed(0)
    source = tiny(4, 2, 6)
    before = source.vit.layers[0].mlp.fc2.weight.detach()
    number(source.vit.layers[0].mlp.fc1.bias)
    figure, axes = canvas(4.4, nrows=2, ncols=2, width_ratios=[6, 9])
    limit = float(before.abs().max())
    for row, symmetry in enumerate(("proj", "equal")):
        grown = resize(source, method="lemon", intermediate_size=9, symmetry=symmetry)
        after = grown.vit.layers[0].mlp.fc2.weight.detach()
        came = grown.vit.layers[0].mlp.fc1.bias.detach().int().tolist()
        sums = torch.stack([after[:, [j for j, c in enumerate(came) if c == i]].sum(1) for i in range(6)], 1)
        left, right = axes[row]
        matrix(left, before, "fc2, 6 units" if row == 0 else "sums over the copies", "", "", limit)
        if row:
            left.images[0].set_data(sums.numpy())
        matrix(right, after, f'9 units, symmetry="{symmetry}"', "", "", limit)
        for axis in (left, right):
            axis.set_yticks([])
        right.set_xticks(range(9), [str(c) for c in came])
        left.set_xlabel("ffn unit")
        right.set_xlabel("copy of unit")
        for j in (0, 1, 2):
            for axis, places in ((left, [j]), (right, [j, j + 6])):
                for place in places:
                    box(axis, place, 0, 1, 4, ec=(KEPT, THIRD, INK)[j], lw=2.2)
        print(
            f"lemon {symmetry}: the copies sum to the source's columns, max |Δ| {float((sums - before).abs().max()):.1e}"
        )
    save(figure, "lemon")


# ---- the ViT of ../shared/data


def pictures(count: int, split: str = "train") -> list[dict[str, torch.Tensor]]:
    """The first CIFAR-10 images of `benchmarks/calibrated.py`, at 56 px, with labels: calibration set 0, or the test split."""
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(DATA / "cifar10" / f"cifar10_{split}.parquet")
    order = torch.randperm(table.num_rows, generator=torch.Generator().manual_seed(0))
    if split == "train":
        held, used = TASKS["images"]["valid"], TASKS["images"]["train"]
        order = order[held : held + used][torch.randperm(used, generator=torch.Generator().manual_seed(0))]
    rows = table.take(order[:count].tolist()).to_pydict()
    pixels = torch.from_numpy(np.stack([np.array(Image.open(io.BytesIO(r["bytes"]))) for r in rows["image"]]))
    size = {"size": (56, 56), "mode": "bicubic", "antialias": True}
    bigger = torch.nn.functional.interpolate(pixels.permute(0, 3, 1, 2).float(), **size)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    images = (bigger.round().clamp(0, 255) / 255 - mean) / std
    return [{"pixel_values": image, "labels": torch.tensor(y)} for image, y in zip(images, rows["label"], strict=True)]


def scores_of(vit: Any, names: Sequence[str]) -> dict[str, Scores]:
    """What each of some ranking methods scores, by the method's name."""
    anatomy, rows = anatomy_of(vit.config, type(vit)), pictures(64)
    found: dict[str, Scores] = {}
    for name in names:
        method: Any = make_method(name, {})
        examples = Examples(rows, vit, labels=method.needs_labels)
        found[name] = method.score(vit, anatomy, examples, disable_progress=True)
    return found


def falling(axis: Axes, scores: torch.Tensor, keep: int, title: str) -> None:
    """Scores from the largest, as shares of it; the kept ones filled in blue, the others in grey."""
    shares = (scores / scores.max()).sort(descending=True).values.tolist()
    if len(shares) < 20:
        axis.bar(range(len(shares)), shares, color=[KEPT] * keep + [GONE] * (len(shares) - keep), width=0.75)
        axis.set_xticks(range(len(shares)), [str(i) for i in scores.argsort(descending=True).tolist()])
        axis.set_xlabel("head")
    else:
        axis.fill_between(range(keep + 1), shares[: keep + 1], color=KEPT, lw=0, label=f"kept, {keep}")
        axis.fill_between(
            range(keep, len(shares)), shares[keep:], color=GONE, lw=0, label=f"gone, {len(shares) - keep}"
        )
        axis.set_xlim(0, len(shares))
        axis.set_xticks([0, keep, len(shares)])
        axis.set_xlabel("rank")
        axis.legend(loc="upper right", frameon=False, handlelength=1)
    axis.set_title(title)


def ranking(name: str, scores: Scores) -> None:
    root = (lambda x: x.sqrt()) if name in ("minitron", "l2") else (lambda x: x)  # squares are summed there
    figure, axes = canvas(2.6, ncols=3, width_ratios=[1.25, 0.85, 1.25], sharey=True)
    falling(axes[0], root(scores.units[LAYER]), HALF["units"], f"ffn units, layer {LAYER}")
    falling(axes[1], root(scores.heads[LAYER].reshape(6, -1).sum(1)), HALF["heads"], f"heads, layer {LAYER}")
    stream = scores.stream if name != "l2" else scores.stream.sqrt()
    falling(axes[2], stream, HALF["width"], "entries of the stream")
    axes[0].set_ylabel("score ÷ the largest")
    axes[0].set_ylim(0, 1.05)
    save(figure, name)


def shortgpt(scores: Scores, tokens: int) -> None:
    influence = (scores.layers / tokens).tolist()
    kept = scores.kept_layers(HALF["layers"])
    figure, axis = canvas(2.6)
    bars = axis.bar(
        range(len(influence)), influence, color=[KEPT if i in kept else GONE for i in range(len(influence))]
    )
    axis.bar_label(bars, [f"{v:.2f}" for v in influence], padding=2, fontsize=9)
    axis.set_xticks(range(len(influence)))
    axis.set_xlabel("layer")
    axis.set_ylabel("1 − mean cos(in, out)")
    axis.set_ylim(0, 1.12 * max(influence))
    axis.legend(
        [Rectangle((0, 0), 1, 1, fc=c) for c in (KEPT, GONE)],
        ["kept, 6", "gone, 6"],
        loc="upper center",
        frameon=False,
    )
    save(figure, "shortgpt")


def front(vit: Any) -> None:
    from scipy import fft

    source = vit.vit.layers[LAYER].mlp.fc1.weight.detach().double()
    made = resize(vit, method=CONSTANT, **QUARTER)
    after = made.vit.layers[LAYER].mlp.fc1.weight.detach().double()
    squares = fft.dctn(source.numpy(), type=2, norm="ortho") ** 2
    share = squares[:768, :192].sum() / squares.sum()
    # 32 x 32 cells, each the root mean square of its 48 x 12 coefficients
    cells = np.sqrt(squares.reshape(32, 48, 32, 12).mean((1, 3)))
    figure, axes = canvas(2.35, ncols=3)
    axes[0].imshow(cells, cmap="viridis", vmin=0, aspect="equal")
    axes[0].add_patch(Rectangle((-0.5, -0.5), 16, 16, fill=False, ec="white", lw=2))
    axes[0].text(7.5, 7.5, f"kept:\n{share:.0%} of\nthe sum\nof squares", color="white", ha="center", va="center", fontsize=9.5,
                 bbox={"boxstyle": "round,pad=0.3", "fc": "#000000A0", "ec": "none"})  # fmt: skip
    axes[0].set_title("cosine coefficients")
    axes[0].set_xlabel("frequency, 384 inputs")
    axes[0].set_ylabel("frequency, 1,536 units")
    limit = float(3 * source.std())
    for axis, values, title in ((axes[1], source[:48, :48], "before"), (axes[2], after[:24, :24], "after")):
        axis.imshow(values.numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
        axis.set_title(f"{title}: {len(values)} × {len(values)} of it")
        axis.set_xlabel("input")
    axes[1].set_ylabel("unit")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    save(figure, "front")
    for name, kind in (("q_proj", "attention"), ("o_proj", "attention"), ("fc1", "mlp"), ("fc2", "mlp")):
        stack = torch.stack(
            [layer.get_submodule(f"{kind}.{name}").weight.detach().double() for layer in vit.vit.layers]
        )
        whole = fft.dctn(stack.numpy(), type=2, norm="ortho", axes=(1, 2)) ** 2
        corner = whole[:, : stack.shape[1] // 2, : stack.shape[2] // 2].sum() / whole.sum()
        depth = fft.dctn(stack.numpy(), type=2, norm="ortho", axes=(0,)) ** 2
        print(
            f"front {name}: low quarter of (out, in) {corner:.1%}, low half of depth {depth[:6].sum() / depth.sum():.1%}"
        )


def random(vit: Any) -> None:
    figure, axis = canvas(2.8)
    methods = (WeightSelection(), CONSTANT, make_method("random", {}))
    for method, color, style in zip(methods, (KEPT, OTHER, INK), ("-", "--", ":"), strict=True):
        made = resize(vit, method=method, **QUARTER)
        values = torch.linalg.svdvals(made.vit.layers[LAYER].mlp.fc1.weight.detach().double())
        axis.plot(values.numpy(), style, color=color, lw=2, label=method.name)
    axis.set_ylim(0)
    axis.set_xlim(0, 191)
    axis.set_xlabel("singular value")
    axis.set_title(f"fc1 of layer {LAYER}, 1,536 × 384 → 768 × 192")
    axis.legend(frameon=False)
    save(figure, "random")


def learngenes(vit: Any) -> None:
    """Whose layers each layer of a descendant resembles, as it is fitted to the ancestry without data."""
    kinds = {"sws": {"num_stages": 4}, "tleg": {}, "fine": {}, "wave": {"template_share": 0.5}, "lets": {}}
    name, depth = "vit.layers.{}.mlp.fc1.weight", 9

    def rows(model: Any) -> torch.Tensor:
        found = [model.get_parameter(name.format(i)).detach().flatten() for i in range(model.config.num_hidden_layers)]
        return torch.nn.functional.normalize(torch.stack(found), dim=1)

    figure, axes = canvas(2.3, ncols=len(kinds), sharey=True)
    for axis, (kind, options) in zip(axes, kinds.items(), strict=True):
        made = AutoLearngene.from_ancestry(vit, kind, **options).initialize(num_hidden_layers=depth)
        image = axis.imshow(rows(made) @ rows(vit).T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_title(kind)
        axis.set_xticks([0, 5, 11])
        axis.set_yticks([0, 4, 8])
        axis.spines[["top", "right"]].set_visible(True)
    axes[0].set_ylabel(f"layers of a descendant of {depth}")
    axes[len(kinds) // 2].set_xlabel("layers of the ancestry")
    figure.colorbar(image, ax=axes, label="cosine of fc1", shrink=0.9)
    save(figure, "learngenes")


def overlap(found: dict[str, Scores]) -> None:
    """How many of the kept units two rankings share; half of them would be chance."""

    def kept(scores: Scores, layer: int) -> set[int]:
        return set(scores.units[layer].argsort(descending=True)[: HALF["units"]].tolist())

    for a, b in itertools.combinations(found, 2):
        shares = [len(kept(found[a], i) & kept(found[b], i)) / HALF["units"] for i in range(12)]
        print(f"units kept by both {a} and {b}: {np.mean(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})")
    for name, scores in found.items():
        print(f"layers kept by {name}: {scores.kept_layers(HALF['layers'])}")


def synthetic() -> None:
    """Made-up images: what a model is calibrated on where there is no data."""
    from hf_learngene.calibration.synthetic.images import image_of

    figure, axes = canvas(1.7, ncols=8, nrows=2)
    for place, axis in enumerate(axes.T.flat):
        axis.imshow(image_of(place, np.random.default_rng((0, place)), (128, 128), 3))
        axis.set_axis_off()
    save(figure, "synthetic")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    real = (DATA / TASKS["images"]["teacher"]).is_dir() and (DATA / "cifar10").is_dir()
    with plt.rc_context(STYLE):
        plain: tuple[Callable[[], None], ...] = (weight_selection, layers, lemon, synthetic)
        for draw in plain:
            draw()
        if not real:
            print(
                f"front, minitron, l2, taylor, shortgpt, random, learngenes stay as they are: {DATA} has no ViT or CIFAR-10"
            )
            return
        vit = teacher_of("images")
        front(vit)
        random(vit)
        learngenes(vit)
        found = scores_of(vit, ("minitron", "l2", "taylor"))
        for name, scores in found.items():
            ranking(name, scores)
        shortgpt(found["minitron"], 64 * 17)
        overlap(found)


if __name__ == "__main__":
    main()
