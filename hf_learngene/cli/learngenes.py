"""`build` and `init`: a learngene from a teacher, and a model from a learngene."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_learngene.cli.app import app, example_help, status
from hf_learngene.cli.arguments import (
    Calibration,
    CalibrationColumn,
    CalibrationSize,
    HiddenSize,
    NumHiddenLayers,
    Option,
    Revision,
    Size,
    Token,
    columns_of,
    keywords,
    options_of,
)
from hf_learngene.errors import InvalidSizeError, TrainingDataError, naming


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_learngene.learngenes import Learngene
    from hf_learngene.training.data import TrainingData
    from hf_learngene.training.work_folder import WorkFolder


@app.command(
    "build",
    help=example_help(
        "Distil a learngene from a teacher: fitted in closed form, then trained on data.\n\n"
        "Stopped or killed, the same command resumes it. --steps 0 only fits, and needs no data.",
        "build google/vit-base-patch16-224 vit-wave --data images/ --learngene-type wave --steps 2000",
        "build google/vit-base-patch16-224 vit-sws --data train/ --eval-data test/ --eval-layers 6,9,12",
        "build google/vit-base-patch16-224 vit-third --learngene-type condensed --steps 0",
    ),
)
def build_command(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="A Hub id or a folder.", show_default=False)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="A file, a folder of images, or a Hub id.", show_default=False)
    ] = None,
    learngene_type: Annotated[
        str, typer.Option(metavar="NAME", help="Which kind; `hf-learngene methods` lists them.")
    ] = "wave",
    num_hidden_layers: NumHiddenLayers = None,
    size: Size = None,
    option: Option = None,
    calibration: Calibration = "auto",
    calibration_column: CalibrationColumn = None,
    calibration_size: CalibrationSize = 512,
    steps: Annotated[int, typer.Option(min=0, help="Optimizer steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At its peak; a cosine follows.")] = 5e-4,
    alpha: Annotated[float, typer.Option(help="Weight of the teacher; the labels have the rest.")] = 0.5,
    sandwich_weight: Annotated[float, typer.Option(help="Of a random other depth at each step.")] = 0.0,
    input_column: Annotated[str | None, typer.Option(help="Default: by its type.", show_default=False)] = None,
    label_column: Annotated[str | None, typer.Option(help="Default: by its name.", show_default=False)] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Held-out data: what descendants reach goes on the card.", show_default=False)
    ] = None,
    eval_layers: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...", help="Their depths, or [[2,2,4,2],...]. Default: its own.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For every random number.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUTPUT.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Distil a learngene from a teacher: fitted in closed form, then trained on data."""
    from hf_learngene.calibration.processing import processor_of
    from hf_learngene.hub.load import load_whole, pinned
    from hf_learngene.hub.output import check_output, real_path, whole_or_absent
    from hf_learngene.learngenes.from_ancestry import fitted_learngene, origin_of, report
    from hf_learngene.learngenes.series import smaller_sizes
    from hf_learngene.learngenes.validating import check_one_label
    from hf_learngene.training.data import data_name, read_data, training_data
    from hf_learngene.training.work_folder import WorkFolder

    if steps and data is None:
        raise TrainingDataError("--steps needs --data to train on; --steps 0 only fits, without data.")
    looked_at = _examples(calibration, calibration_column, calibration_size)
    depths = _depths(eval_layers, eval_data)
    given: dict[str, Any] = {**options_of(option), **keywords(size, num_hidden_layers=num_hidden_layers)}
    columns: dict[str, Any] = {"input_column": input_column, "label_column": label_column, "seed": seed}
    arguments = {
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "learning_rate": learning_rate,
        "alpha": alpha,
        "sandwich_weight": sandwich_weight,
        "seed": seed,
    }
    work = WorkFolder(real_path(output))
    with work.held(), _stopped_with_a_hint(work, steps):
        path = check_output(output, overwrite, teacher, data, eval_data)
        with status(f"Loading {teacher}"):
            loading = pinned(teacher, keywords(None, revision=revision, token=token))
            model = load_whole(teacher, dtype="float32", **loading)
            if eval_data is not None:
                check_one_label(type(model))  # not after the training
            origin = origin_of(teacher, loading)
            processor = processor_of(teacher, model.main_input_name, loading)
        with status(f"Fitting {learngene_type} to it"):
            learngene = fitted_learngene(
                model, learngene_type, {**given, **looked_at, "processing_class": processor}, seed, origin
            )
        typer.echo(report(learngene))
        held_out = training_data(read_data(eval_data), model, processor, **columns) if eval_data is not None else None
        prepared = training_data(read_data(str(data)), model, processor, **columns) if steps else None
        examples = f"{_place(str(data))}, {len(prepared.dataset)} examples" if prepared is not None else None
        asked = {"teacher": f"{_place(teacher)} {origin['ancestry_commit']}", "learngene_type": learngene_type,
                 "data": examples, **looked_at, **given, **columns, **arguments}  # fmt: skip
        checkpoint = work.begin({name: str(value) for name, value in asked.items()}, start_over=overwrite)
        if prepared is not None:
            _train(learngene, model, processor, prepared, work.path, arguments, checkpoint)
        if held_out is not None:
            _validate(learngene, held_out, data_name(str(eval_data)), depths, batch_size)
        needed = sum(p.nbytes for p in learngene.parameters()) + (1 << 20)
        with status(f"Writing {output}"), whole_or_absent(path, overwrite, needed) as folder:
            work.note_result(folder)
            learngene.save_pretrained(folder)
            processor.save_pretrained(folder)
        work.remove()
    typer.echo(
        f"\nSaved to {output}: {learngene.stored_share:.0%} of the dense model's parameters. A model of any size: hf-learngene "
        f"init {output} NAME {_flags(smaller_sizes(learngene.anatomy))}"
    )


def _flags(sizes: dict[str, Any]) -> str:
    """Sizes as a command takes them."""
    plain = {"num_hidden_layers": "--num-hidden-layers "}
    flags = ((plain.get(n, f"--size {n}="), v if isinstance(v, list) else [v]) for n, v in sizes.items())
    return " ".join(f"{flag}{','.join(map(str, values))}" for flag, values in flags)


@contextmanager
def _stopped_with_a_hint(work: WorkFolder, steps: int) -> Iterator[None]:
    """Says how to go on, where somebody stops the run."""
    from hf_learngene.training.resuming import step_of

    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        last = work.last_checkpoint()
        kept = (
            "begins anew, no checkpoint was written yet"
            if last is None
            else f"resumes at step {step_of(last)} of {steps}"
        )
        typer.echo(f"\nStopped. The same command {kept}.", err=True)
        raise


def _examples(calibration: str, column: str | None, size: int) -> dict[str, Any]:
    """Keywords that say what a learngene looks at; none where nobody named examples."""
    if calibration in ("auto", "none"):
        return {} if calibration == "auto" else {"calibration": None}
    return {
        "calibration": _place(calibration),
        "calibration_column": columns_of(column),
        "calibration_size": size,
    }


def _place(source: str) -> str:
    """A local path such that it means the same from everywhere, or a Hub id."""
    return os.path.abspath(source) if os.path.exists(source) else source


def _depths(given: str | None, data: str | None) -> list[Any]:
    """Depths to measure, from `3,6,9`; of a hierarchy a list for each, from `[[2,2,4,2],[1,1,2,1]]`."""
    if given is None:
        return []
    if data is None:
        raise TrainingDataError("--eval-layers says which depths to measure; --eval-data says on what. Give it too.")
    try:
        depths: list[Any] = json.loads(given if given.startswith("[") else f"[{given}]")
    except ValueError:
        depths = []
    whole = [d for each in depths for d in (each if isinstance(each, list) else [each])]
    if not whole or not all(type(d) is int and d >= 1 for d in whole):
        raise InvalidSizeError(
            f"--eval-layers is a list of depths such as 3,6,9, or [[2,2,4,2],[1,1,2,1]] for a hierarchy; it was {given!r}."
        )
    return depths


def _validate(learngene: Any, prepared: Any, name: str, depths: list[Any], batch_size: int) -> None:
    from hf_learngene.anatomy.stages import listed

    sizes = [{"num_hidden_layers": depth} for depth in depths] or [{}]
    records = learngene.validate(
        prepared.dataset, sizes, dataset=name, data_collator=prepared.collator, remove_unused_columns=False,
        per_device_eval_batch_size=batch_size,
    )  # fmt: skip
    for record in records:
        figures = ", ".join(f"{metric} {value:.3f}" for metric, value in record["metrics"].items())
        made = {**listed(learngene.anatomy.sizes), **record["sizes"]}["num_hidden_layers"]
        typer.echo(f"{_layers(made)}, as initialised: {figures}")


def _layers(depth: Any) -> str:
    """`6 layers`, or `2, 2, 4, 2 blocks`."""
    return f"{', '.join(map(str, depth))} blocks" if isinstance(depth, list) else f"{depth} layers"


def _train(
    learngene: Learngene, teacher: PreTrainedModel, processor: Any, prepared: TrainingData, work: Path,
    arguments: dict[str, Any], checkpoint: Path | None,
) -> None:  # fmt: skip
    from hf_learngene.training import LearngeneTrainer, LearngeneTrainingArguments
    from hf_learngene.training.resuming import step_of

    args = LearngeneTrainingArguments(
        output_dir=str(work),
        lr_scheduler_type="cosine",
        warmup_steps=min(100, arguments["max_steps"] // 10),
        weight_decay=0.05,
        save_steps=max(1, arguments["max_steps"] // 10),
        save_total_limit=1,
        logging_steps=max(1, arguments["max_steps"] // 20),
        report_to="none",
        remove_unused_columns=False,
        **arguments,
    )
    trainer = LearngeneTrainer(
        learngene.train(), args, teacher, train_dataset=prepared.dataset, data_collator=prepared.collator,
        processing_class=processor, teacher_processing_class=processor,
    )  # fmt: skip
    if checkpoint is not None:
        typer.echo(f"Resuming at step {step_of(checkpoint)} of {arguments['max_steps']}.")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    learngene.eval()


@app.command(
    "init",
    help=example_help(
        "Make a model of any size from a learngene, as a plain transformers checkpoint.",
        "init vit-wave vit-9 --num-hidden-layers 9",
        "init vit-wave vit-narrow --hidden-size 384 --num-hidden-layers 6 --size num_labels=10",
        "init swin-sws swin-s --size depths=2,2,4,2",
        "init vit-third vit-6 --num-hidden-layers 6 --calibration images/",
    ),
)
def init_command(
    learngene: Annotated[
        str, typer.Argument(metavar="LEARNGENE", help="A learngene's Hub id or folder.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.", show_default=False)],
    hidden_size: HiddenSize = None,
    num_hidden_layers: NumHiddenLayers = None,
    size: Size = None,
    calibration: Calibration = "auto",
    calibration_column: CalibrationColumn = None,
    calibration_size: CalibrationSize = 512,
    seed: Annotated[int, typer.Option(help="For what starts anew.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUTPUT.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Make a model of any size from a learngene, as a plain transformers checkpoint."""
    from hf_learngene.anatomy import anatomy_of
    from hf_learngene.anatomy.stages import listed
    from hf_learngene.hub.card import model_card
    from hf_learngene.hub.load import pinned
    from hf_learngene.hub.output import check_output
    from hf_learngene.hub.save import save_resized
    from hf_learngene.learngenes import AutoLearngene

    check_output(output, overwrite, learngene)
    given = keywords(size, hidden_size=hidden_size, num_hidden_layers=num_hidden_layers)
    with status(f"Loading {learngene}"):
        loading = pinned(learngene, keywords(None, revision=revision, token=token))
        genes = AutoLearngene.from_pretrained(learngene, **loading)
    looked_at = _examples(calibration, calibration_column, calibration_size)
    with status(f"Making and writing {output}"), naming(learngene):
        model = genes.initialize(seed=seed, **given, **looked_at)
        card = model_card(model, source=learngene, loading=loading, name=output.name)
        save_resized(model, output, source=learngene, loading=loading, card=card, overwrite=overwrite)
    before, after = listed(genes.anatomy.sizes), listed(anatomy_of(model.config, type(model)).sizes)
    depths = f"{before['num_hidden_layers']} → {after['num_hidden_layers']}"
    typer.echo(
        f"{type(model).__name__}, {model.num_parameters():,} parameters, {depths} {'blocks' if '[' in depths else 'layers'}.\n"
        f'Saved to {output}. Load it with {type(model).__name__}.from_pretrained("{output}").'
    )
