"""`build` and `init`: a learngene from a teacher, and a model from a learngene."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_learngene.cli.app import app, example_help, status
from hf_learngene.cli.arguments import HiddenSize, NumHiddenLayers, Option, Revision, Size, Token, keywords, options_of
from hf_learngene.errors import InvalidSizeError, ResumeError, TrainingDataError


@app.command(
    "build",
    help=example_help(
        "Distil a learngene from a teacher: fitted in closed form, then trained on data.\n\n"
        "Stopped, it goes on where it was when called again. --steps 0 only fits, and needs no data.",
        "build google/vit-base-patch16-224 vit-wave --data images/ --learngene-type wave --steps 2000",
        "build google/vit-base-patch16-224 vit-sws --data train/ --eval-data test/ --eval-layers 6,9,12",
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
    option: Option = None,
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
        str | None, typer.Option(metavar="N,N,...", help="Their depths. Default: its own.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="For every random number.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUTPUT.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Distil a learngene from a teacher: fitted in closed form, then trained on data."""
    from hf_learngene.hub.load import load_whole, pinned
    from hf_learngene.hub.output import check_output, whole_or_absent
    from hf_learngene.hub.provenance import public_name
    from hf_learngene.learngenes.from_ancestry import fitted_learngene, origin_of, report
    from hf_learngene.learngenes.validating import check_one_label
    from hf_learngene.training.data import processor_of, read_data, training_data

    path = check_output(output, overwrite, teacher, data, eval_data)
    if steps and data is None:
        raise TrainingDataError("--steps needs --data to train on; --steps 0 only fits, without data.")
    depths = _depths(eval_layers, eval_data)
    given: dict[str, Any] = options_of(option)
    if num_hidden_layers is not None:
        given["num_hidden_layers"] = num_hidden_layers
    with status(f"Loading {teacher}"):
        loading = pinned(teacher, keywords(None, revision=revision, token=token))
        model = load_whole(teacher, dtype="float32", **loading)
        if eval_data is not None:
            check_one_label(type(model))  # not after the training
        origin = origin_of(teacher, loading)
    with status(f"Fitting {learngene_type} to it"):
        learngene = fitted_learngene(model, learngene_type, given, seed, origin)
    typer.echo(report(learngene))
    processor = processor_of(teacher, model.main_input_name, loading)
    columns: dict[str, Any] = {"input_column": input_column, "label_column": label_column, "seed": seed}
    held_out = training_data(read_data(eval_data), model, processor, **columns) if eval_data is not None else None
    if steps:
        arguments = {
            "max_steps": steps,
            "per_device_train_batch_size": batch_size,
            "learning_rate": learning_rate,
            "alpha": alpha,
            "sandwich_weight": sandwich_weight,
            "seed": seed,
        }
        prepared = training_data(read_data(str(data)), model, processor, **columns)
        asked = {
            "teacher": f"{os.path.abspath(teacher) if os.path.isdir(teacher) else teacher} {origin['ancestry_commit']}",
            "learngene_type": learngene_type,
            "data": f"{os.path.abspath(str(data)) if os.path.exists(str(data)) else data}, {len(prepared.dataset)} examples",
            **{name: str(value) for name, value in {**given, **columns, **arguments}.items()},
        }
        _same_run(_work(path), asked, overwrite)
        _train(learngene, model, processor, prepared, _work(path), arguments)
    if held_out is not None:
        _validate(learngene, held_out, public_name(str(eval_data)), depths, batch_size)
    needed = sum(p.nbytes for p in learngene.parameters()) + (1 << 20)
    with status(f"Writing {output}"), whole_or_absent(path, overwrite, needed) as folder:
        learngene.save_pretrained(folder)
        processor.save_pretrained(folder)
    shutil.rmtree(_work(path), ignore_errors=True)
    typer.echo(
        f"\nSaved to {output}: {learngene.stored_share:.0%} of the dense model's parameters. A model of any size: hf-learngene "
        f"init {output} NAME --num-hidden-layers 9"
    )


def _depths(given: str | None, data: str | None) -> list[int]:
    """Depths to measure, from `3,6,9`."""
    if given is None:
        return []
    if data is None:
        raise TrainingDataError("--eval-layers says which depths to measure; --eval-data says on what. Give it too.")
    try:
        depths = [int(part) for part in given.split(",")]
    except ValueError:
        depths = []
    if not depths or min(depths) < 1:
        raise InvalidSizeError(f"--eval-layers is a list of depths such as 3,6,9; it was {given!r}.")
    return depths


def _validate(learngene: Any, prepared: Any, name: str, depths: list[int], batch_size: int) -> None:
    sizes = [{"num_hidden_layers": depth} for depth in depths] or [{}]
    records = learngene.validate(
        prepared.dataset, sizes, dataset=name, data_collator=prepared.collator, remove_unused_columns=False,
        per_device_eval_batch_size=batch_size,
    )  # fmt: skip
    for record in records:
        figures = ", ".join(f"{metric} {value:.3f}" for metric, value in record["metrics"].items())
        layers = record["sizes"].get("num_hidden_layers", learngene.anatomy.num_layers)
        typer.echo(f"{layers} layers, as initialised: {figures}")


def _work(path: Path) -> Path:
    return path.with_name(f".{path.name}.training")


def _same_run(work: Path, asked: dict[str, str], overwrite: bool) -> None:
    """Refuses to go on with a run that was begun with other settings, which the checkpoints do not tell.

    Raises:
        ResumeError: says which differ.
    """
    path = work / "asked.json"
    if work.is_dir() and overwrite:
        shutil.rmtree(work)
    if path.is_file():
        begun = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in begun.keys() | asked.keys() if begun.get(name) != asked.get(name))
        if other:
            shown = ", ".join(f"{name}: {begun.get(name)} then, {asked.get(name)} now" for name in other[:3])
            raise ResumeError(
                f"A run for this output was begun with other settings ({shown}). Give the same to go on with it, another OUTPUT, "
                "or --overwrite to start over."
            )
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asked, indent=1), encoding="utf-8")


def _train(learngene: Any, teacher: Any, processor: Any, prepared: Any, work: Path, arguments: dict[str, Any]) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    from hf_learngene.training import LearngeneTrainer, LearngeneTrainingArguments

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
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    learngene.eval()


@app.command(
    "init",
    help=example_help(
        "Make a model of any size from a learngene, as a plain transformers checkpoint.",
        "init vit-wave vit-9 --num-hidden-layers 9",
        "init vit-wave vit-narrow --hidden-size 384 --num-hidden-layers 6 --size num_labels=10",
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
    seed: Annotated[int, typer.Option(help="For what starts anew.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUTPUT.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Make a model of any size from a learngene, as a plain transformers checkpoint."""
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
    with status(f"Making and writing {output}"):
        model = genes.initialize(seed=seed, **given)
        card = model_card(model, source=learngene, loading=loading, name=output.name)
        save_resized(model, output, source=learngene, loading=loading, card=card, overwrite=overwrite)
    typer.echo(
        f"{type(model).__name__}, {model.num_parameters():,} parameters, "
        f"{genes.anatomy.num_layers} → {model.config.num_hidden_layers} layers.\n"
        f'Saved to {output}. Load it with {type(model).__name__}.from_pretrained("{output}").'
    )
