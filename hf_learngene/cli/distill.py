"""`distill`: a shrunk model trained towards its source, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_learngene.cli.app import app, example_help, status
from hf_learngene.cli.arguments import ProcessingClass, Revision, Token, keywords


@app.command(
    "distill",
    help=example_help(
        "Train a shrunk model towards its source, without labels, for as long as it helps.\n\n"
        "An eighth of the examples is held back; what is nearest to the source on them is kept, the start included.",
        "distill vit-half google/vit-base-patch16-224 vit-half-distilled --data images/",
        "distill bert-half google-bert/bert-base-uncased bert-half-distilled --data sentences.txt --steps 1000",
    ),
)
def distill_command(
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="The smaller model: a folder or a Hub id.", show_default=False)
    ],
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", help="Its source: a Hub id or a folder.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.", show_default=False)],
    data: Annotated[
        str, typer.Option(help="A file, a folder of images, a Hub id, or synthetic for made-up examples.")
    ] = "synthetic",
    input_column: Annotated[str | None, typer.Option(help="Default: by its type.", show_default=False)] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps at most.")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="At its peak; a cosine follows.")] = 1e-5,
    processing_class: ProcessingClass = None,
    seed: Annotated[int, typer.Option(help="For every random number.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUTPUT.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Train a shrunk model towards its source, without labels, for as long as it helps."""
    from hf_learngene.calibration.processing import processor_of
    from hf_learngene.hub.card import model_card
    from hf_learngene.hub.load import load_whole, pinned
    from hf_learngene.hub.output import check_output
    from hf_learngene.hub.save import save_resized
    from hf_learngene.hub.sentence import read_modules
    from hf_learngene.training.data import read_data
    from hf_learngene.training.distilling import SYNTHETIC, distill

    made_up = data == SYNTHETIC
    check_output(output, overwrite, student, teacher, *(() if made_up else (data,)))
    examples = data if made_up else read_data(data)
    with status("Loading both models"):
        at_teacher = pinned(teacher, keywords(None, revision=revision, token=token))
        at_student = pinned(student, keywords(None, token=token))
        source = load_whole(teacher, dtype="float32", **at_teacher)
        model = load_whole(student, type(source), dtype="float32", **at_student)
        processor = processor_of(processing_class or student, source.main_input_name, at_student)
    modules = read_modules(student, at_student)
    made = distill(
        model,
        source,
        examples,
        processing_class=processor,
        input_column=input_column,
        pooling=modules.pooling if modules is not None else None,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    with status(f"Writing {output}"):
        card = model_card(made, source=teacher, loading=at_teacher, name=output.name)
        save_resized(made, output, source=student, loading=at_student, card=card, overwrite=overwrite)
    typer.echo(f'\nSaved to {output}. Load it with {type(made).__name__}.from_pretrained("{output}").')
