"""`compare`: methods side by side, job by job."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from tqdm.auto import tqdm
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments, set_seed
from transformers.utils.generic import find_labels
from transformers.utils.logging import is_progress_bar_enabled

from hf_learngene._version import __version__
from hf_learngene.anatomy.config_fields import ALIASES
from hf_learngene.budget.meter import QUANTITIES
from hf_learngene.calibration.processing import processor_of
from hf_learngene.comparing import fingerprint, folder
from hf_learngene.comparing.calibration import Calibration
from hf_learngene.comparing.folder import SOURCE, Folder, job_name, write_text
from hf_learngene.comparing.measuring import (
    ACCURACY,
    Metric,
    Task,
    base_arguments,
    described,
    has_plain_columns,
)
from hf_learngene.comparing.result import RANDOM, Comparison, Row
from hf_learngene.comparing.saved import FORMAT, check_job, fault, number, value_of
from hf_learngene.comparing.saved import SOURCE as SOURCE_KINDS
from hf_learngene.comparing.spec import CompareSpec, Start, check_data, parse_spec
from hf_learngene.errors import (
    InvalidSizeError,
    LearngeneError,
    UnsupportedSourceError,
)
from hf_learngene.hub.load import load_whole
from hf_learngene.hub.provenance import public_name
from hf_learngene.methods import Method
from hf_learngene.resizing import plan, resize
from hf_learngene.resizing.execute import check_source
from hf_learngene.resizing.plan import Plan
from hf_learngene.state import quiet, undisturbed


# Sizes that say what goes in and comes out: where one differs, the data that fit one model do not fit the other.
_TASK = ("image_size", "num_channels", "num_labels")


@dataclass(frozen=True)
class Cell:
    """A size by a method, before any training."""

    size: str
    start: Start
    parameters: int | None
    cannot: str | None
    same_task: bool


def compare(
    source: str | os.PathLike[str] | PreTrainedModel,
    sizes: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]],
    train_dataset: Any,
    eval_dataset: Any,
    *,
    output_dir: str | os.PathLike[str],
    methods: Sequence[str | Method | Mapping[str, Any]] | Mapping[str, str | Method | Mapping[str, Any]] = (
        "random",
        "weight_selection",
    ),
    steps: int = 100,
    eval_steps: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    learning_rate: float | Mapping[str, float] = 3e-4,
    batch_size: int = 32,
    args: TrainingArguments | None = None,
    data_collator: Any = None,
    compute_metrics: Callable[[EvalPrediction], Mapping[str, Any]] | None = None,
    metric: str = ACCURACY,
    calibration: Any = None,
    calibration_column: str | tuple[str, str] | None = None,
    calibration_size: int = 512,
    processing_class: Any = None,
    overwrite: bool = False,
) -> Comparison:
    """Starts a model of each size by each method, trains all of them the same way, and says what each start was worth.

    One job is one method at one size with one seed. What is done lies in `output_dir`: called again with the same
    arguments, it goes on where it stopped.

    Args:
        source (`str` or `PreTrainedModel`): a checkpoint with the head that is trained: a Hub id, a folder, or a model.
        sizes: a list of sizes as `resize` takes them (`[{"hidden_size": 192}, {"params": 0.25}]`), or a dict of them by name. A
            budget is spent in the source's proportions, for every method alike.
        train_dataset: examples with the model's columns and labels, as for `Trainer`.
        eval_dataset: the same, to measure on.
        output_dir (`str`): the folder for `comparison.json`, `comparison.md`, `comparison.png`, and what is done so far.
        methods: names, or by label a name, a `Method`, or a dict of a method and its options
            (`{"every other": {"method": "layers", "layer_map": [0, 2, 4]}}`).
        steps (`int`, *optional*, defaults to 100): training steps of each model.
        eval_steps (`int`, *optional*): measure each so many steps; default: a fifth of `steps`. Before the first step and
            after the last is always measured.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`): a model for each; a seed decides what is drawn and the
            order of the examples, the same for every method.
        learning_rate (`float` or `Mapping`, *optional*, defaults to 3e-4): at its peak; or one for each method, by label. What
            suits random init can undo a start that is good already: choose each on examples held out for that.
        batch_size (`int`, *optional*, defaults to 32): examples of a step.
        args (`TrainingArguments`, *optional*): everything else of the training; what is an argument here, or of saving, logging
            and evaluating, is set here. Warm-up is a tenth of the steps unless these have one.
        data_collator (*optional*): as for `Trainer`.
        compute_metrics (*optional*): as for `Trainer`; default: accuracy by the largest logit.
        metric (`str`, *optional*, defaults to `"accuracy"`): the key in what `compute_metrics` gives; larger is better.
        calibration (*optional*): examples for the methods that use some, as in `resize`: a path, a data set, `"synthetic"`.
            Default: drawn from `train_dataset` by the seed, so that each seed sees others; made up for `auto`.
        calibration_column (*optional*): the column of `calibration` that holds texts or images, or two of a pair of texts.
        calibration_size (`int`, *optional*, defaults to 512): how many are drawn, or looked at.
        processing_class (*optional*): tokenizer or image processor, as for `Trainer` and `resize`, or the name of a checkpoint
            that has one.
        overwrite (`bool`, *optional*, defaults to `False`): start over, whatever `output_dir` holds.

    Returns:
        `Comparison`: `print` it; also in `output_dir`. A size that a method cannot make is left out, and says why.

    Raises:
        LearngeneError: a `ValueError` for everything that cannot be done, before anything is trained: an argument out of its
            range, a size that no method can make, a folder that holds another comparison.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, vocab_size=20)
        >>> data = [{"input_ids": [5 + i % 2, 7, 8], "labels": i % 2} for i in range(8)]
        >>> found = compare(
        ...     BertForSequenceClassification(config), [{"num_hidden_layers": 1}], data, data, steps=2, seeds=[0],
        ...     output_dir=tempfile.mkdtemp(),
        ... )
        >>> [row.method for row in found.rows], found.rows[0].steps
        (['random', 'weight_selection'], (0, 1, 2))
    """
    spec = parse_spec(sizes, methods, steps, eval_steps, seeds, learning_rate, batch_size, calibration_size)
    measure = Metric(metric, compute_metrics)
    check_data(train_dataset, "train_dataset")
    check_data(eval_dataset, "eval_dataset")
    shown = Calibration.of(spec, train_dataset, calibration, calibration_column)
    plain = has_plain_columns(train_dataset) and has_plain_columns(eval_dataset)
    arguments = base_arguments(args, spec, Path(output_dir), plain)
    with undisturbed():
        model = _loaded(source, arguments.device)
        if isinstance(processing_class, (str, os.PathLike)):
            processing_class = processor_of(processing_class, model.main_input_name)
        settled = dataclasses.replace(spec, sizes={name: _settled(model, size) for name, size in spec.sizes.items()})
        cells = _cells(model, settled)
        task = Task(train_dataset, eval_dataset, measure, arguments, data_collator, processing_class)
        kept = Folder(output_dir)
        settings = _settings(source, model, spec, task, shown)
        with kept.held():
            kept.open(settings, overwrite)
            if fault(kept.read(SOURCE), SOURCE_KINDS) is not None:
                known = task.measure(copy.deepcopy(model)) if any(c.same_task for c in cells) else None
                kept.write(SOURCE, {"metric": number(known), "parameters": model.num_parameters()})
            refused = _run(model, cells, settled, task, shown, kept)
            cells = [dataclasses.replace(c, cannot=refused.get((c.size, c.start.label), c.cannot)) for c in cells]
            return _finished(cells, settled, settings, kept)


def _loaded(source: Any, device: torch.device) -> PreTrainedModel:
    """The source in float32, ours to move."""
    if isinstance(source, (str, os.PathLike)):
        with quiet():
            model = load_whole(source, dtype=torch.float32)
        check_source(model)
    else:
        check_source(source)
        model = copy.deepcopy(source).float()
    if not find_labels(type(model)):
        raise UnsupportedSourceError(
            f"{type(model).__name__} takes no labels, so it cannot be trained on any. Give a checkpoint with a head, such as one "
            "of AutoModelForSequenceClassification or AutoModelForImageClassification."
        )
    return cast(PreTrainedModel, nn.Module.to(model.eval(), device=device))


def _settled(model: PreTrainedModel, size: Mapping[str, Any]) -> dict[str, Any]:
    """A budget as sizes in the source's proportions: a method that spends it otherwise would make another model."""
    if not QUANTITIES.keys() & size.keys():
        return dict(size)
    found = plan(model, method=RANDOM, **size).target.sizes
    named = {k: v for k, v in size.items() if k not in QUANTITIES}
    chosen = [n for n in ("hidden_size", "num_hidden_layers") if not {n, *ALIASES.get(n, ())} & named.keys()]
    return {**{n: found[n] for n in chosen}, **named}


def _cells(model: PreTrainedModel, spec: CompareSpec) -> list[Cell]:
    """Every size by every method: what can be made, and why not what cannot.

    Raises:
        LearngeneError: no method can make a size, or two methods make it differently.
    """
    cells = []
    for name, size in spec.sizes.items():
        plans: dict[str, Plan] = {}
        refused: dict[str, LearngeneError] = {}
        for label, start in spec.starts.items():
            try:
                plans[label] = plan(model, method=start.given, **size)
            except LearngeneError as error:
                refused[label] = error.with_traceback(None)  # its frames hold the models of all callers
        if not plans:
            reasons = {str(error): label for label, error in refused.items()}
            first = next(iter(refused.values()))
            told = next(iter(reasons)) if len(reasons) == 1 else "; ".join(f"{b}: {a}" for a, b in reasons.items())
            raise type(first)(f"No method can make the size {name!r}. {told}") from first
        _check_alike(name, plans)
        for label, start in spec.starts.items():
            found = plans.get(label)
            same = found is not None and all(found.source.sizes.get(n) == found.target.sizes.get(n) for n in _TASK)
            why = " ".join(str(refused[label]).split()) if label in refused else None
            cells.append(Cell(name, start, found.num_parameters if found else None, why, same))
    return cells


def _check_alike(name: str, plans: Mapping[str, Plan]) -> None:
    first, *others = plans.items()
    for label, other in others:
        mine, theirs = first[1].target.sizes, other.target.sizes
        differing = [n for n in {**mine, **theirs} if mine.get(n) != theirs.get(n)]
        if differing:
            field = differing[0]
            raise InvalidSizeError(
                f"The size {name!r} is {field}={mine.get(field)} for {first[0]!r} and {field}={theirs.get(field)} for {label!r}, "
                f"which cannot be compared. Name {field} in the size."
            )


def _settings(
    source: Any,
    model: PreTrainedModel,
    spec: CompareSpec,
    task: Task,
    calibration: Calibration,
) -> dict[str, Any]:
    """What the results depend on: with the same settings a job gives the same result."""
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else getattr(source, "name_or_path", None)
    found = {
        "format": FORMAT,
        "source": {
            "name": public_name(name) if name else None,
            "class": type(model).__name__,
            "digest": fingerprint.of_model(model),
        },
        "sizes": spec.sizes,
        "methods": {label: start.described for label, start in spec.starts.items()},
        "steps": spec.steps,
        "eval_steps": spec.eval_steps,
        "seeds": spec.seeds,
        "learning_rate": spec.learning_rate,
        "batch_size": spec.batch_size,
        "args": described(task.arguments),
        "train_dataset": fingerprint.of_data(task.train_dataset),
        "eval_dataset": fingerprint.of_data(task.eval_dataset),
        "data_collator": fingerprint.name_of(task.data_collator),
        "compute_metrics": fingerprint.name_of(task.metric.compute),
        "metric": task.metric.name,
        "processing_class": fingerprint.name_of(task.processing_class),
        **calibration.described(spec),
    }
    return folder.plain(found)


def _run(
    model: PreTrainedModel,
    cells: Sequence[Cell],
    spec: CompareSpec,
    task: Task,
    calibration: Calibration,
    kept: Folder,
) -> dict[tuple[str, str], str]:
    """Every job that is not done yet. Methods alternate, so that what is done early can be compared.

    Returns:
        By size and method, why a method could not make what its plan promised: the examples were not enough for it.
    """
    wanted = [c for c in cells if c.cannot is None]
    jobs = [(c, seed) for name in spec.sizes for seed in spec.seeds for c in wanted if c.size == name]
    refused: dict[tuple[str, str], str] = {}
    with tqdm(total=len(jobs), desc="comparing", disable=not is_progress_bar_enabled()) as bar:
        for cell, seed in jobs:
            name = job_name(cell.size, cell.start.label, seed)
            if not check_job(kept.read(name)) and (cell.size, cell.start.label) not in refused:
                bar.set_description(f"{cell.size}, {cell.start.label}, seed {seed}")
                bar.set_postfix_str("initialising")
                try:
                    made, seconds = _started(model, cell, spec, task, seed, calibration)
                except LearngeneError as error:
                    refused[cell.size, cell.start.label] = " ".join(str(error).split())
                else:
                    kept.write(name, _trained(made, cell, spec, task, seed, seconds, bar.set_postfix_str))
            bar.update()
    return refused


def _started(
    model: PreTrainedModel, cell: Cell, spec: CompareSpec, task: Task, seed: int, calibration: Calibration
) -> tuple[PreTrainedModel, float]:
    """A model, and the seconds it took to make it. Drawing the examples is part of that."""
    set_seed(seed)  # a data set may draw too, such as a crop
    began = time.perf_counter()
    examples = calibration.keywords(cell.start, task, seed)
    with quiet():  # what is newly initialised would be said once for each job
        made = resize(model, method=cell.start.given, seed=seed, **examples, **spec.sizes[cell.size])
    return made, time.perf_counter() - began


def _trained(
    made: PreTrainedModel,
    cell: Cell,
    spec: CompareSpec,
    task: Task,
    seed: int,
    seconds: float,
    told: Callable[[str], None],
) -> dict[str, Any]:
    """One job, as it is kept."""

    def measured(step: int, value: float) -> None:
        told(f"step {step} of {spec.steps}, {task.metric.name} {value:.3f}")

    curve = task.train(made, seed, spec.learning_rate[cell.start.label], measured)
    return {
        "size": cell.size,
        "method": cell.start.label,
        "seed": seed,
        "seconds": round(seconds, 3),
        "steps": list(curve),
        "curve": [number(value) for value in curve.values()],
    }


def _finished(cells: Sequence[Cell], spec: CompareSpec, settings: Mapping[str, Any], kept: Folder) -> Comparison:
    """The comparison from what is on disk, written beside it."""
    rows = []
    for cell in cells:
        label, seeds = cell.start.label, spec.seeds if cell.cannot is None else ()
        jobs = [cast(dict[str, Any], kept.read(job_name(cell.size, label, seed))) for seed in seeds]
        steps = tuple(jobs[0]["steps"]) if jobs else ()
        curves = tuple(tuple(map(value_of, job["curve"])) for job in jobs)
        seconds = tuple(job["seconds"] for job in jobs)
        rows.append(Row(cell.size, label, cell.parameters, steps, curves, seconds, cell.cannot, cell.same_task))
    source = cast(dict[str, Any], kept.read(SOURCE))
    versions = {"hf_learngene": __version__, "transformers": transformers.__version__, "torch": torch.__version__}
    found = Comparison(tuple(rows), settings, source["metric"], source["parameters"], versions)
    write_text(kept.path / "comparison.md", found.to_markdown())
    found.plot(kept.path / "comparison.png")
    write_text(kept.path / "comparison.json", folder.json_text(found.to_dict()))
    return found
