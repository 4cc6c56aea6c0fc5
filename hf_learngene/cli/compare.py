"""`compare`: methods side by side, on one's own data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_learngene.budget.meter import QUANTITIES
from hf_learngene.cli.app import app, example_help, status
from hf_learngene.cli.arguments import (
    CalibrationColumn,
    CalibrationSize,
    ProcessingClass,
    Revision,
    Source,
    Token,
    columns_of,
    keywords,
    method_with_options,
)
from hf_learngene.errors import TrainingDataError, UnknownOptionError


if TYPE_CHECKING:
    from datasets import Dataset


SPLIT_SEED = 0  # every seed of a comparison is measured on the same examples
LEARNING_RATE = 3e-4


@app.command(
    "compare",
    help=example_help(
        "Start models of each size by each method, train all alike, and show what it was worth.\n\n"
        "A table, a picture and the numbers are left in OUTPUT. Called again, it goes on where it was.",
        "compare my-vit out --data images/ --sizes hidden_size=192,num_hidden_layers=6",
        "compare my-bert out --data a.csv --sizes params=0.5 --method random --method auto",
    ),
)
def compare_command(
    source: Source,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder of results.", show_default=False)],
    data: Annotated[str, typer.Option(help="Trained on: a path, a Hub id.", show_default=False)],
    size: Annotated[
        list[str],
        typer.Option("--sizes", metavar="NAME=VALUE,...", help="Of one model. Repeatable.", show_default=False),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="With options in quotes. Repeatable.",
            show_default=False,
        ),
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Held out. Default: part of --data.", show_default=False)
    ] = None,
    eval_split: Annotated[str, typer.Option(help="Split of --eval-data.")] = "train",
    eval_share: Annotated[
        float, typer.Option(metavar="SHARE", min=0.001, max=0.9, help="Of --data, to measure on.")
    ] = 0.1,
    eval_limit: Annotated[
        int | None, typer.Option(metavar="COUNT", min=1, help="Measure on so many at most.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(metavar="COUNT", min=1, help="To train a model.")] = 100,
    eval_steps: Annotated[
        int | None,
        typer.Option(metavar="COUNT", min=1, help="Measure each so many. Default: a fifth.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Models by each method.")] = 3,
    learning_rate: Annotated[
        list[str] | None,
        typer.Option(metavar="RATE", help="3e-4, or METHOD=3e-5. Repeatable.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Examples of a step.")] = 32,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="To shrink on. Default: part of --data.", show_default=False),
    ] = None,
    calibration_column: CalibrationColumn = None,
    calibration_size: CalibrationSize = 512,
    processing_class: ProcessingClass = None,
    input_column: Annotated[str | None, typer.Option(help="Default: by its type.", show_default=False)] = None,
    label_column: Annotated[str | None, typer.Option(help="Default: by its name.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in OUTPUT.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Start models of each size by each method, train all of them the same way, and show what it was worth."""
    sizes = [size_of(text) for text in size]
    methods = {text: start_of(text) for text in method or ("random", "weight_selection")}
    rates = rates_of(learning_rate, methods)

    from hf_learngene.calibration.processing import processor_of
    from hf_learngene.comparing import compare
    from hf_learngene.comparing.folder import RESULTS, Folder
    from hf_learngene.hub.load import load_whole, pinned
    from hf_learngene.training.data import training_data

    Folder(output).check()
    with status(f"Loading {source}"):
        loading = pinned(source, keywords(None, revision=revision, token=token))
        model = load_whole(source, dtype="float32", **loading)
        name = source if processing_class is None else processing_class
        processor = processor_of(name, model.main_input_name, loading if name == source else {})
    train, held_out = _split(data, eval_data, eval_split, eval_share, eval_limit)
    prepared, measured = (
        training_data(part, model, processor, input_column=input_column, label_column=label_column)
        for part in (train, held_out)
    )
    found = compare(
        model,
        sizes,
        prepared.dataset,
        measured.dataset,
        output_dir=output,
        methods=methods,
        steps=steps,
        eval_steps=eval_steps,
        seeds=range(seeds),
        learning_rate=rates,
        batch_size=batch_size,
        data_collator=prepared.collator,
        calibration=calibration,
        calibration_column=columns_of(calibration_column),
        calibration_size=calibration_size,
        processing_class=processor,
        overwrite=overwrite,
    )
    typer.echo(str(found))
    typer.echo(f"\nSaved to {output}: {', '.join(RESULTS)}.")


def size_of(text: str) -> dict[str, Any]:
    """`hidden_size=192,num_attention_heads=3` as keywords of `resize`; a value may be a list of its own (`depths=2,2,4,2`).

    Raises:
        UnknownOptionError: it is not written so, or holds a name that is no size.

    Example:
        >>> size_of("hidden_size=192,image_size=224x160"), size_of("params=0.25")
        ({'hidden_size': 192, 'image_size': (224, 160)}, {'params': '0.25'})
        >>> size_of("embed_dim=64,depths=2,2,4,2")
        {'embed_dim': 64, 'depths': [2, 2, 4, 2]}
    """
    pairs = [part.partition("=") for part in re.split(r",(?=[^,\[\]]*=)", text)]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise UnknownOptionError(
            f"--sizes takes NAME=VALUE, separated by commas, such as hidden_size=192,num_hidden_layers=6; it was "
            f"{text!r}."
        )
    budgets: dict[str, str] = {}
    for name, _, value in pairs:
        if name.strip() in QUANTITIES:
            if name.strip() in budgets:
                raise UnknownOptionError(f"{name.strip()!r} was given twice.")
            budgets[name.strip()] = value.strip()
    others = ["".join(pair) for pair in pairs if pair[0].strip() not in QUANTITIES]
    return keywords(others, "--sizes", **budgets)


def start_of(text: str) -> Any:
    """`layers layer_map=0,2,5`: a method and its options.

    Raises:
        UnknownOptionError: no such method, or no such option.
    """
    name, *options = text.split() or [text]
    return method_with_options(name, options)


def rates_of(given: list[str] | None, methods: Iterable[str]) -> dict[str, float]:
    """A learning rate for each method: one for all, and others for those named.

    Raises:
        UnknownOptionError: it is no number.

    Example:
        >>> rates_of(["front=3e-5", "1e-3"], ["random", "front"])
        {'random': 0.001, 'front': 3e-05}
    """
    rates = dict.fromkeys(methods, LEARNING_RATE)
    pairs = [text.rpartition("=") for text in given or []]
    for label, _, number in sorted(pairs, key=lambda pair: pair[0] != ""):  # those named have the last word
        try:
            rate = float(number)
        except ValueError as error:
            raise UnknownOptionError(
                f"--learning-rate takes a number, or METHOD=NUMBER such as random=1e-3; it was {number!r}."
            ) from error
        rates |= {label: rate} if label else dict.fromkeys(rates, rate)
    return rates


def _split(
    data: str, eval_data: str | None, eval_split: str, share: float, limit: int | None
) -> tuple[Dataset, Dataset]:
    """What is trained on, and what is measured on.

    Raises:
        TrainingDataError: too little of it, or the same for both.
    """
    from hf_learngene.training.data import read_data

    if eval_data is not None and Path(eval_data) == Path(data) and (Path(data).is_file() or eval_split == "train"):
        raise TrainingDataError(
            f"--eval-data is also the training data ({data}). Name other examples, another --eval-split, or leave it out: then "
            "--eval-share of --data is held out."
        )
    train = read_data(data)
    if eval_data is not None:
        held_out = read_data(eval_data, split=eval_split)
    else:
        if len(train) < 2:
            raise TrainingDataError(
                f"{data} holds {len(train)} examples; at least 2 are needed, one to train on and one to measure on."
            )
        parts = train.train_test_split(
            test_size=min(max(1, round(share * len(train))), len(train) - 1), seed=SPLIT_SEED
        )
        train, held_out = parts["train"], parts["test"]
    if limit is not None and limit < len(held_out):
        held_out = held_out.shuffle(seed=SPLIT_SEED).select(range(limit))
    return train, held_out
