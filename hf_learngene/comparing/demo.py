"""What the package does, shown on two real checkpoints in a few minutes on a CPU.

A vision encoder is shrunk and fine-tuned beside the same network from a random start; a text encoder is grown and
compared with its source. Nothing is downloaded: the images are scikit-learn's handwritten digits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig, PreTrainedModel
from transformers import AutoModel as TransformersAutoModel
from transformers import AutoModelForImageClassification as TransformersAutoModelForImageClassification

from hf_learngene import AutoLearngene, AutoModel, AutoModelForImageClassification, verify
from hf_learngene.state import quiet


NUM_LABELS = 10
CHANCE = 1 / NUM_LABELS
TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2
# Eight-pixel digits hold no more detail than a 4 x 4 grid of patches can show.
PATCHES_PER_SIDE = 4
BATCH_SIZE = 32
EVALUATIONS = 6
WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.05
LEARNING_RATES = (1e-4, 3e-4)
STARTS = {"resized": "auto", "random": "random"}
SIZE_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Digits:
    """The handwritten digits as images of the size a model takes, split once and for all."""

    train: Pair
    validation: Pair
    test: Pair


def run_demo(
    image_model: str,
    text_model: str,
    output: str | Path,
    steps: int = 60,
    seeds: int = 3,
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs the demo and leaves `learning_curves.png` and `results.json` behind.

    Args:
        image_model: A ViT-like checkpoint with an image processor: a Hub id or a folder.
        text_model: A BERT-like checkpoint.
        output: The folder to write to.
        steps: Fine-tuning steps of each run.
        seeds: Runs from each start; they differ in whatever is drawn at random, and in the order of the examples.
        console: Where to show tables and progress. Left out: the terminal.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: If `steps` or `seeds` is not positive.

    Example:
        >>> run_demo("vit-s14", "minilm-l6", "demo")  # doctest: +SKIP
    """
    for name, value in (("steps", steps), ("seeds", seeds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    console = console or Console()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    with quiet():  # the same checkpoint is loaded many times here
        console.rule("[bold]Growing a text encoder")
        text = grow_text_model(text_model, console)
        console.rule("[bold]A learngene of the text encoder")
        learngene = make_learngene(text_model, console)
        console.rule("[bold]Shrinking a vision encoder")
        image = shrink_image_model(image_model, console)
        console.rule("[bold]Fine-tuning the small encoder")
        training = compare_starts(image_model, steps, range(seeds), console)

    results = {
        "image_model": image,
        "text_model": text,
        "learngene": learngene,
        "training": training,
        "torch_threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot_learning_curves(results, output / "learning_curves.png")
    console.print(f"Wrote {output / 'learning_curves.png'} and {output / 'results.json'}, {results['seconds']:.0f} s.")
    return results


def small_sizes(config: PreTrainedConfig) -> dict[str, int]:
    """Two thirds of the heads and of the width, half of the layers, and as many pixels as the digits are worth."""
    heads = max(1, config.num_attention_heads * 2 // 3)
    return {
        "hidden_size": heads * (config.hidden_size // config.num_attention_heads),
        "num_hidden_layers": max(1, config.num_hidden_layers // 2),
        "image_size": config.patch_size * PATCHES_PER_SIDE,
    }


def shrink_image_model(image_model: str, console: Console) -> dict[str, Any]:
    """Shrinks the vision encoder once, to show what it takes."""
    config = AutoConfig.from_pretrained(image_model, num_labels=NUM_LABELS)
    with torch.device("meta"):
        source = TransformersAutoModelForImageClassification.from_config(config)
    start = time.perf_counter()
    model = build_classifier(image_model, "auto", seed=0)
    facts = describe_resize(source, model, time.perf_counter() - start)
    console.print(resize_table(facts))
    return facts


def grow_text_model(text_model: str, console: Console) -> dict[str, Any]:
    """Doubles the text encoder in width and depth, and checks that it still computes the same."""
    source = TransformersAutoModel.from_pretrained(text_model, dtype=torch.float32).eval()
    start = time.perf_counter()
    grown = AutoModel.from_pretrained_resized(
        text_model,
        hidden_size=2 * source.config.hidden_size,
        num_hidden_layers=2 * source.config.num_hidden_layers,
        method="lemon",
        dtype=torch.float32,
    )
    facts = describe_resize(source, grown, time.perf_counter() - start)
    report = verify(source, grown)
    facts["max_abs_difference"] = float(report.max_abs_logit_difference)
    facts["function_preserving"] = bool(report.function_preserving)
    console.print(resize_table(facts))
    console.print(str(report))
    return facts


def make_learngene(text_model: str, console: Console) -> dict[str, Any]:
    """Fits a learngene to the text encoder without data, and initialises models of several sizes from it."""
    start = time.perf_counter()
    learngene = AutoLearngene.from_ancestry(text_model, "wave")
    depth, width = learngene.base.num_hidden_layers, learngene.base.hidden_size
    facts: dict[str, Any] = {
        "type": learngene.config.learngene_type,
        "stored_share": round(learngene.stored_share, 4),
        "fit_seconds": round(time.perf_counter() - start, 2),
        "models": [],
    }
    table = Table(title=f"one {facts['type']} learngene, {facts['stored_share']:.0%} of the encoder's parameters")
    for column in ("layers", "width", "parameters", "seconds"):
        table.add_column(column, justify="right")
    own = learngene.initialize()
    wide = own
    for layers, size in ((max(1, depth // 2), width), (depth, width), (2 * depth, width), (depth, 2 * width)):
        start = time.perf_counter()
        wide = learngene.initialize(num_hidden_layers=layers, hidden_size=size)
        seconds = round(time.perf_counter() - start, 2)
        facts["models"].append(
            {"layers": layers, "width": size, "parameters": wide.num_parameters(), "seconds": seconds}
        )
        table.add_row(str(layers), str(size), f"{wide.num_parameters():,}", f"{seconds:.2f}")
    report = verify(own, wide)
    facts["twice_the_width_is_the_same_function"] = bool(report.function_preserving)
    console.print(table)
    console.print(f"at twice the width: {report}")
    console.print("Fitted only: to be distilled (hf-learngene build) before its models are of use.")
    return facts


def describe_resize(source: PreTrainedModel, model: PreTrainedModel, seconds: float) -> dict[str, Any]:
    """Sizes and parameters before and after."""

    def describe(one: PreTrainedModel) -> dict[str, int]:
        names = [name for name in (*SIZE_FIELDS, "image_size") if isinstance(getattr(one.config, name, None), int)]
        return {**{name: getattr(one.config, name) for name in names}, "parameters": one.num_parameters()}

    methods = [stage["method"] for stage in model.config.learngene["passes"]]
    return {
        "source": describe(source),
        "target": describe(model),
        "method": ", ".join(methods),
        "seconds": round(seconds, 2),
    }


def build_classifier(image_model: str, method: str, seed: int) -> PreTrainedModel:
    """The small classifier, from one start or the other."""
    sizes = small_sizes(AutoConfig.from_pretrained(image_model))
    return AutoModelForImageClassification.from_pretrained_resized(
        image_model, method=method, seed=seed, num_labels=NUM_LABELS, dtype=torch.float32, **sizes
    )


def load_images(image_model: str, image_size: int) -> Digits:
    """Loads the digits through the preprocessing of the checkpoint.

    Args:
        image_model: The checkpoint whose image processor is used.
        image_size: The size in pixels to scale the images to.

    Returns:
        The images with labels, split in proportion to the classes.
    """
    processor = AutoImageProcessor.from_pretrained(image_model, backend="pil")
    raw = load_digits()
    images = [Image.fromarray((image * 255 / 16).astype(np.uint8)).convert("RGB") for image in raw.images]
    size = {"height": image_size, "width": image_size}
    pixels = processor(images, size=size, do_center_crop=False, return_tensors="pt")["pixel_values"]
    labels = torch.tensor(raw.target)
    rest, test = train_test_split(np.arange(len(labels)), test_size=TEST_SHARE, random_state=0, stratify=labels)
    train, validation = train_test_split(rest, test_size=VALIDATION_SHARE, random_state=0, stratify=labels[rest])
    return Digits(*((pixels[part], labels[part]) for part in (train, validation, test)))


def compare_starts(image_model: str, steps: int, seeds: Sequence[int], console: Console) -> dict[str, Any]:
    """Fine-tunes the small classifier from both starts, each at the learning rate that suits it best.

    Args:
        image_model: The checkpoint that one of the starts is made from.
        steps: Steps of each run.
        seeds: One run of each start for each of them.
        console: Where to show progress and the outcome.

    Returns:
        Settings, learning rates tried, and test accuracy by step for each start and seed.
    """
    digits = load_images(image_model, small_sizes(AutoConfig.from_pretrained(image_model))["image_size"])
    every = max(1, steps // EVALUATIONS)
    rates: dict[str, dict[str, Any]] = {}
    curves: dict[str, list[list[float]]] = {start: [] for start in STARTS}
    total = steps * len(STARTS) * (len(LEARNING_RATES) + len(seeds))
    with progress_bar(console) as progress:
        task = progress.add_task("", total=total)

        def advance() -> None:
            progress.advance(task)

        for start, method in STARTS.items():
            scores = {}
            for rate in LEARNING_RATES:
                progress.update(task, description=f"{start} start: trying learning rate {rate:g}")
                model = build_classifier(image_model, method, seed=0)
                # The test images stay out of every choice.
                curve = fine_tune(model, digits.train, digits.validation, rate, steps, steps, 0, advance)
                scores[rate] = curve[steps]
            rates[start] = {"validation_accuracy": scores, "chosen": max(scores, key=scores.__getitem__)}
        for start, method in STARTS.items():
            for seed in seeds:
                progress.update(task, description=f"{start} start: seed {seed}")
                model = build_classifier(image_model, method, seed=seed)
                rate = rates[start]["chosen"]
                curve = fine_tune(model, digits.train, digits.test, rate, steps, every, seed, advance)
                curves[start].append(list(curve.values()))
    training = {
        "data": "scikit-learn digits",
        "images": {name: len(getattr(digits, name)[1]) for name in ("train", "validation", "test")},
        "batch_size": BATCH_SIZE,
        "learning_rates": rates,
        "steps": list(curve),
        "seeds": list(seeds),
        "test_accuracy": curves,
    }
    console.print(accuracy_table(training))
    return training


def fine_tune(
    model: PreTrainedModel,
    train: Pair,
    held_out: Pair,
    learning_rate: float,
    steps: int,
    every: int,
    seed: int,
    advance: Callable[[], None],
) -> dict[int, float]:
    """Fine-tunes a classifier, with warm-up and linear decay.

    Args:
        model: The classifier; changed in place.
        train: Images and labels to learn from.
        held_out: Images and labels to measure on.
        learning_rate: The peak.
        steps: How many batches.
        every: Measure at the start, after each so many steps, and at the end.
        seed: Decides the order of the examples.
        advance: Called after each step.

    Returns:
        Accuracy on `held_out` by step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    warmup = max(1, round(steps * WARMUP_SHARE))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    batches = shuffled_batches(len(train[1]), seed)
    curve = {0: accuracy(model, *held_out)}
    for step in range(1, steps + 1):
        model.train()
        index = next(batches)
        loss = nn.functional.cross_entropy(model(train[0][index]).logits, train[1][index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == steps:
            curve[step] = accuracy(model, *held_out)
        advance()
    return curve


def shuffled_batches(size: int, seed: int) -> Iterator[Tensor]:
    """Yields indices of batches, epoch after epoch, for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).split(BATCH_SIZE)


@torch.no_grad()
def accuracy(model: PreTrainedModel, pixels: Tensor, labels: Tensor) -> float:
    """The share of images that are named rightly."""
    model.eval()
    answers = torch.cat([model(part).logits.argmax(-1) for part in pixels.split(128)])
    return round((answers == labels).float().mean().item(), 4)


def progress_bar(console: Console) -> Progress:
    """A bar with a count and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def resize_table(facts: dict[str, Any]) -> Table:
    """Sizes before and after, as a table."""
    table = Table(title=f"method: {facts['method']}, {facts['seconds']:.1f} s", title_justify="left")
    table.add_column("")
    table.add_column("source", justify="right")
    table.add_column("target", justify="right")
    for name, value in facts["source"].items():
        table.add_row(name, f"{value:,}", f"{facts['target'][name]:,}")
    return table


def accuracy_table(training: dict[str, Any]) -> Table:
    """Test accuracy by step, as a table."""
    seeds = len(training["seeds"])
    spread = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    table = Table(title=f"test accuracy, {spread}", title_justify="left")
    table.add_column("step", justify="right")
    for start, rates in training["learning_rates"].items():
        table.add_column(f"{start} start\n(learning rate {rates['chosen']:g})", justify="right")
    for number, step in enumerate(training["steps"]):
        table.add_row(
            str(step), *(summary([c[number] for c in curves]) for curves in training["test_accuracy"].values())
        )
    return table


def summary(values: Sequence[float]) -> str:
    """The mean, and the range where there is one.

    Example:
        >>> summary([0.25, 0.75])
        '0.500 (0.250-0.750)'
        >>> summary([0.25])
        '0.250'
    """
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def plot_learning_curves(results: dict[str, Any], path: Path) -> None:
    """Draws test accuracy by step: the mean of the seeds, and the range they span."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    training, image = results["training"], results["image_model"]
    source, target = image["source"], image["target"]
    styles = {
        "resized": (f"from the larger model ({image['method']})", "#0b7285", "o"),
        "random": ("from a random start", "#e8590c", "s"),
    }
    # Not through pyplot, which would set up a window and keep the figure for as long as the process lives.
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for start, (label, color, marker) in styles.items():
        curves = np.asarray(training["test_accuracy"][start])
        axes.fill_between(training["steps"], curves.min(0), curves.max(0), color=color, alpha=0.18, linewidth=0)
        axes.plot(
            training["steps"], curves.mean(0), color=color, marker=marker, markersize=5, linewidth=2, label=label
        )
    axes.axhline(CHANCE, color="0.6", linewidth=1, linestyle=":")
    axes.annotate(
        "chance", (training["steps"][-1], CHANCE), (0, 4), textcoords="offset points", ha="right", color="0.45"
    )

    millions = f"{source['parameters'] / 1e6:.1f}M to {target['parameters'] / 1e6:.1f}M parameters"
    shapes = " to ".join(f"{s['num_hidden_layers']} layers of {s['hidden_size']}" for s in (source, target))
    axes.set_title("The same small network, started in two ways", loc="left", fontsize=14, fontweight="bold", pad=24)
    axes.text(0, 1.02, f"{shapes}, {millions}; {training['data']}", transform=axes.transAxes, color="0.35")
    seeds = len(training["seeds"])
    axes.set_xlabel(f"fine-tuning step (batches of {training['batch_size']})")
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(x=0.01)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    band = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    axes.legend(title=band, alignment="left", loc="lower right", bbox_to_anchor=(1, 0.12), frameon=False)
    figure.savefig(path, dpi=150)
