"""`build` and `init`: a learngene from a teacher, and a model from a learngene."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_learngene.cli.app import app, example_help, status
from hf_learngene.cli.arguments import HiddenSize, NumHiddenLayers, Option, Size, keywords, options_of


@app.command(
    "build",
    help=example_help(
        "Distil a learngene from a teacher: fitted in closed form, then trained on data.\n\n"
        "Stopped, it goes on where it was when called again. --steps 0 only fits, and needs no data.",
        "build google/vit-base-patch16-224 vit-wave --data images/ --learngene-type wave --steps 2000",
    ),
)
def build_command(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="A Hub id or a folder.", show_default=False)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="A file, a folder of images, or a Hub id.", show_default=False)
    ] = None,
    learngene_type: Annotated[str, typer.Option(help="wave, sws, tleg, fine or lets.")] = "wave",
    num_hidden_layers: NumHiddenLayers = None,
    option: Option = None,
    steps: Annotated[int, typer.Option(min=0, help="Optimizer steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At its peak; a cosine follows.")] = 5e-4,
    alpha: Annotated[float, typer.Option(help="Weight of the teacher; the labels have the rest.")] = 0.5,
    sandwich_weight: Annotated[float, typer.Option(help="Of a random other depth at each step.")] = 0.0,
    input_column: Annotated[str | None, typer.Option(help="Default: by its type.", show_default=False)] = None,
    label_column: Annotated[str | None, typer.Option(help="Default: by its name.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="For every random number.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUTPUT.")] = False,
) -> None:
    """Distil a learngene from a teacher: fitted in closed form, then trained on data."""
    from hf_learngene.errors import TrainingDataError
    from hf_learngene.learngenes import AutoLearngene
    from hf_learngene.learngenes.fitting import report
    from hf_learngene.resizing.auto import load_whole
    from hf_learngene.resizing.saving import check_output, whole_or_absent
    from hf_learngene.training.data import processor_of

    path = check_output(output, overwrite)
    if steps and data is None:
        raise TrainingDataError("--steps needs --data to train on; --steps 0 only fits, without data.")
    given: dict[str, Any] = options_of(option)
    if num_hidden_layers is not None:
        given["num_hidden_layers"] = num_hidden_layers
    with status(f"Loading {teacher}"):
        model = load_whole(teacher, dtype="float32")
    with status(f"Fitting {learngene_type} to it"):
        learngene = AutoLearngene.from_ancestry(model, learngene_type, seed=seed, **given)
    typer.echo(report(learngene))
    processor = processor_of(teacher, model.main_input_name)
    if steps:
        arguments = {
            "max_steps": steps,
            "per_device_train_batch_size": batch_size,
            "learning_rate": learning_rate,
            "alpha": alpha,
            "sandwich_weight": sandwich_weight,
            "seed": seed,
        }
        _train(learngene, model, processor, str(data), input_column, label_column, _work(path), arguments)
    needed = sum(p.nbytes for p in learngene.parameters()) + (1 << 20)
    with status(f"Writing {output}"), whole_or_absent(path, overwrite, needed) as folder:
        learngene.save_pretrained(folder)
        processor.save_pretrained(folder)
    shutil.rmtree(_work(path), ignore_errors=True)
    typer.echo(
        f"\nSaved to {output}: {learngene.stored_share:.0%} of the dense model's parameters. A model of any size: hf-learngene "
        f"init {output} NAME --num-hidden-layers 9"
    )


def _work(path: Path) -> Path:
    return path.with_name(f".{path.name}.training")


def _train(
    learngene: Any,
    teacher: Any,
    processor: Any,
    data: str,
    input_column: str | None,
    label_column: str | None,
    work: Path,
    arguments: dict[str, Any],
) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    from hf_learngene.training import LearngeneTrainer, LearngeneTrainingArguments
    from hf_learngene.training.data import read_data, training_data

    prepared = training_data(
        read_data(data),
        teacher,
        processor,
        input_column=input_column,
        label_column=label_column,
        seed=arguments["seed"],
    )
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
) -> None:
    """Make a model of any size from a learngene, as a plain transformers checkpoint."""
    from hf_learngene.learngenes import AutoLearngene
    from hf_learngene.resizing.saving import check_output, save_resized

    check_output(output, overwrite)
    given = keywords(size, hidden_size=hidden_size, num_hidden_layers=num_hidden_layers)
    with status(f"Loading {learngene}"):
        genes = AutoLearngene.from_pretrained(learngene)
    with status(f"Making and writing {output}"):
        model = genes.initialize(seed=seed, **given)
        save_resized(model, output, source=learngene, overwrite=overwrite)
    typer.echo(
        f"{type(model).__name__}, {model.num_parameters():,} parameters, "
        f"{genes.anatomy.num_layers} → {model.config.num_hidden_layers} layers.\n"
        f'Saved to {output}. Load it with {type(model).__name__}.from_pretrained("{output}").'
    )
