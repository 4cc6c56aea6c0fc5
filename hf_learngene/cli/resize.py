"""`plan` and `resize`: what a resize would do, and the model that it makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hf_learngene.cli.app import app, example_help, status
from hf_learngene.cli.arguments import (
    DTYPES,
    Calibration,
    CalibrationColumn,
    CalibrationSize,
    Corpus,
    Flops,
    HiddenSize,
    IntermediateSize,
    Latency,
    MethodName,
    NumAttentionHeads,
    NumHiddenLayers,
    Option,
    Params,
    ProcessingClass,
    Revision,
    Size,
    Source,
    Task,
    Token,
    VocabSize,
    columns_of,
    dtype_name,
    keywords,
    method_with_options,
)
from hf_learngene.cli.labels import data_of, labelled
from hf_learngene.cli.trainer_checkpoint import grow_trainer_checkpoint
from hf_learngene.errors import CheckpointError, UnknownOptionError, VocabularyError, naming, nearest


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hf_learngene.budget.meter import Budget
    from hf_learngene.resizing.plan import Plan
    from hf_learngene.resizing.spec import ResizeSpec


@app.command(
    "plan",
    help=example_help(
        "Show what a resize would do. Only the config is fetched, no weights.\n\n"
        "For each tensor: where it comes from, such as kept, selected or fresh. Sizes you leave out follow the source.",
        "plan google/vit-base-patch16-224 --hidden-size 384 --num-hidden-layers 6",
        "plan google-bert/bert-base-uncased --method layers --option layer_map=0,2,4,7,9,11",
    ),
)
def plan_command(
    source: Source,
    hidden_size: HiddenSize = None,
    num_hidden_layers: NumHiddenLayers = None,
    num_attention_heads: NumAttentionHeads = None,
    intermediate_size: IntermediateSize = None,
    vocab_size: VocabSize = None,
    corpus: Corpus = None,
    size: Size = None,
    params: Params = None,
    flops: Flops = None,
    latency: Latency = None,
    method: MethodName = "auto",
    option: Option = None,
    task: Task = None,
    calibration: Calibration = "auto",
    measure_latency: Annotated[
        bool, typer.Option("--measure-latency", help="Time source and result on this CPU, with random weights.")
    ] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Show what a resize would do. Only the config is fetched, no weights."""
    from hf_learngene.resizing.spec import ResizeSpec

    chosen = method_with_options(method, option)
    given = keywords(
        size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        vocab_size=vocab_size,
        revision=revision,
        token=token,
    )
    kept = None if corpus is None else _trimmed(source, corpus, given)[1]
    examples = None if calibration == "none" else calibration
    spec = ResizeSpec.parse(
        given,
        method=chosen,
        params=params,
        flops=flops,
        latency=latency,
        calibration=examples,
        kept_tokens=kept,
        loads=True,
    )
    made = _plan(source, spec, task)
    if measure_latency:
        with status("Timing source and result"):
            _ = made.latency  # a plan shows what it has measured
    typer.echo(str(made))


@app.command(
    "resize",
    help=example_help(
        "Save a model of another size: a larger one computes the same, a smaller one works untrained.",
        "resize my-vit vit-quarter --hidden-size 192 --calibration images/",
    ),
)
def resize_command(
    context: typer.Context,
    source: Source,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.", show_default=False)],
    hidden_size: HiddenSize = None,
    num_hidden_layers: NumHiddenLayers = None,
    num_attention_heads: NumAttentionHeads = None,
    intermediate_size: IntermediateSize = None,
    vocab_size: VocabSize = None,
    corpus: Corpus = None,
    size: Size = None,
    params: Params = None,
    flops: Flops = None,
    latency: Latency = None,
    method: MethodName = "auto",
    option: Option = None,
    task: Task = None,
    num_labels: Annotated[int | None, typer.Option(help="Labels of a new head.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="For every random number.")] = 0,
    dtype: Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}.", show_default=False)] = None,
    calibration: Calibration = "auto",
    calibration_column: CalibrationColumn = None,
    calibration_size: CalibrationSize = 512,
    no_calibration_top_up: Annotated[
        bool, typer.Option("--no-calibration-top-up", help="Make none up where they are few.")
    ] = False,
    processing_class: ProcessingClass = None,
    trainer_checkpoint: Annotated[
        bool, typer.Option("--trainer-checkpoint", help="Grow a Trainer's checkpoint-N with its optimizer.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUTPUT.")] = False,
    max_shard_size: Annotated[str, typer.Option(help="The largest file of weights.")] = "50GB",
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Make a model of another size, and save it with tokenizer or image processor."""
    from hf_learngene.hub.files import hub_keywords
    from hf_learngene.hub.load import pinned
    from hf_learngene.hub.output import check_output
    from hf_learngene.hub.sentence import check_modules
    from hf_learngene.hub.shards import check_shard_size
    from hf_learngene.resizing.from_pretrained import check_examples_there
    from hf_learngene.resizing.spec import ResizeSpec
    from hf_learngene.resizing.to_folder import resize_to_folder
    from hf_learngene.state import without_old_garbage

    context.with_resource(without_old_garbage())
    named: dict[str, Any] = {
        "hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers, "num_attention_heads": num_attention_heads,
        "intermediate_size": intermediate_size, "vocab_size": vocab_size,
    }  # fmt: skip
    if trainer_checkpoint:
        unfit = (
            corpus,
            params,
            flops,
            latency,
            task,
            num_labels,
            dtype,
            calibration_column,
            processing_class,
            revision,
            token,
        )
        calibrates = calibration != "auto" or calibration_size != 512 or no_calibration_top_up
        if any(value is not None for value in unfit) or calibrates:
            raise UnknownOptionError(
                "--trainer-checkpoint takes larger sizes, --method, --option, --seed and --overwrite: everything else "
                "would make another training of it."
            )
        grow_trainer_checkpoint(source, output, method, option, seed, overwrite, keywords(size, **named))
        return
    data = data_of(calibration)
    check_output(output, overwrite, source, corpus, data)
    check_shard_size(max_shard_size)
    chosen = method_with_options(method, option)
    given = keywords(
        size,
        **named,
        num_labels=num_labels,
        revision=revision,
        token=token,
        dtype=dtype_name(dtype),
    )
    given = pinned(source, given)  # one state of the Hub for plan, weights, tokenizer and card
    tokenizer, kept = (None, None) if corpus is None else _trimmed(source, corpus, given)
    spec = ResizeSpec.parse(
        given,
        method=chosen,
        params=params,
        flops=flops,
        latency=latency,
        seed=seed,
        calibration=None if calibration == "none" else calibration,
        calibration_column=columns_of(calibration_column),
        calibration_size=calibration_size,
        calibration_top_up=not no_calibration_top_up,
        processing_class=processing_class,
        kept_tokens=kept,
        loads=True,
    )
    check_examples_there(spec)
    made = _plan(source, spec, task)
    if not spec.sizes and spec.budget is None and chosen == "auto" and task is None and dtype is None:
        raise UnknownOptionError(
            f"Nothing to do: no size of {source} was given. Take --hidden-size, --num-hidden-layers, --size NAME=VALUE, or a "
            f"budget such as --params 0.5; `hf-learngene plan {source}` shows what it has."
        )
    _check_learns_nothing(made, source)
    check_modules(source, hub_keywords(given), made.model_class, made.source_config, made.target_config)
    if data is not None and any(step.method.needs_labels for step in made.passes):
        spec = labelled(spec, made, data, source, given)
    if made.budget is not None:
        spec = spec.with_sizes({**spec.sizes, **_spent(source, made, made.budget.budget, spec)})
        made = _plan(source, spec, task)
    typer.echo(str(made))

    said: list[str] = []
    with status(f"Resizing {source} to {output}", bars=True):
        resize_to_folder(
            source,
            output,
            spec,
            plan=made,
            choose_class=lambda _: made.model_class,
            processing_class=tokenizer,
            overwrite=overwrite,
            max_shard_size=max_shard_size,
            tell=said.append,
        )
    for text in said:
        typer.echo(f"\n{text}")
    typer.echo(f'\nSaved to {output}. Load it with {made.model_class.__name__}.from_pretrained("{output}").')


def _check_learns_nothing(made: Plan, source: str) -> None:
    """Refuses what is trained on data: a training has more settings than fit here."""
    learner = next((step.method.name for step in made.passes if step.method.learns), None)
    if learner is not None:
        sizes = ", ".join(f"{name}={value}" for name, value in made.sizes.items())
        raise UnknownOptionError(
            f"--method {learner} is trained on data, which is done in Python: "
            f"{made.model_class.__name__}.from_pretrained({source!r}), then resize(model, method={learner!r}, train_dataset=..., "
            f"{sizes}). --method lemon grows without data."
        )


def _plan(source: str, spec: ResizeSpec, task: str | None) -> Plan:
    from hf_learngene.hub.tasks import class_of_checkpoint
    from hf_learngene.resizing.auto import BY_TASK
    from hf_learngene.resizing.from_pretrained import plan_checkpoint

    if task is not None and task not in BY_TASK:
        raise UnknownOptionError(f"--task is one of {', '.join(BY_TASK)}; it was {task!r}.{nearest(task, BY_TASK)}")
    choose = BY_TASK[task].class_for if task else class_of_checkpoint
    with status(f"Reading the config of {source}"):
        return plan_checkpoint(source, spec, choose_class=choose)[0]


def _trimmed(source: str, corpus: Path, given: dict[str, Any]) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The source's tokenizer with the tokens of a corpus, and their old ids; how many they are goes into `given`."""
    from transformers import AutoTokenizer

    from hf_learngene.hub.files import hub_keywords
    from hf_learngene.hub.load import load_config
    from hf_learngene.vocabulary.trim_tokenizer import trim_tokenizer

    loading = hub_keywords(given)
    config = load_config(source, loading)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **loading)
    except Exception as error:  # whatever damaged files make of the readers; `tokenizers` raises nothing but Exception
        raise CheckpointError(
            f"`{source}` has no tokenizer that transformers reads, so --corpus cannot trim it."
        ) from error
    try:
        with status(f"Reading {corpus}"), corpus.open(encoding="utf-8-sig") as lines, naming(source):
            texts = (line.rstrip("\n") for line in lines)
            trimmed = trim_tokenizer(tokenizer, texts, given.get("vocab_size"), config=config)
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"`{corpus}` is not UTF-8 text. --corpus takes a file with one text on each line. ({error})"
        ) from error
    given["vocab_size"] = len(trimmed[1])
    return trimmed


def _spent(source: str, made: Plan, budget: Budget, spec: ResizeSpec) -> dict[str, int]:
    """The sizes that a plan's budget is spent on, by measured error; says why."""
    from hf_learngene.calibration.processing import resolved_processor
    from hf_learngene.hub.load import load_whole
    from hf_learngene.resizing import allocate

    options = made.passes[0].method.options()
    with status("Measuring what each size is worth", bars=True):
        model = load_whole(source, made.model_class, **spec.loading)
        found = allocate(
            model,
            calibration=spec.calibration,
            processing_class=resolved_processor(spec.processing_class, model, source, spec.loading),
            calibration_column=spec.calibration_column,
            calibration_size=spec.calibration_size,
            calibration_top_up=spec.calibration_top_up,
            seed=made.seed,
            **cast(dict[str, Any], {budget.quantity: budget.amount}),
            **options,
            **spec.sizes,
        )
    typer.echo(f"{found}\n")
    return found.full
