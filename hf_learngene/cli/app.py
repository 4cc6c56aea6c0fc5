"""The command line. Heavy imports wait for the command that needs them, so that `--help` is quick."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hf_learngene._version import __version__
from hf_learngene.cli.arguments import (
    DTYPES,
    Corpus,
    HiddenSize,
    MethodName,
    NumHiddenLayers,
    Option,
    Params,
    Revision,
    Size,
    Source,
    Task,
    Token,
    VocabSize,
    dtype_name,
    keywords,
    method_with_options,
)
from hf_learngene.errors import CheckpointError, LearngeneError, UnknownOptionError, VocabularyError, nearest


if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from hf_learngene.resizing.plan import Plan
    from hf_learngene.resizing.spec import ResizeSpec


USER_ERROR = 2  # also what the parser gives for an option that does not exist


class Commands(TyperGroup):
    """Says in one line what was wrong with what the user gave; a traceback is for what is wrong with us."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command.

        Raises:
            typer.Exit: with status 2, after the message.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `hf-learngene plan ... | head`
            raise
        except (LearngeneError, OSError, ImportError) as error:
            if os.environ.get("HF_LEARNGENE_DEBUG"):
                raise
            line = " ".join(str(error).split()) or type(error).__name__
            _errors().print(f"Error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(USER_ERROR) from error


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # they print local variables, and one of them is the token
    context_settings={"help_option_names": ["-h", "--help"]},
)


def example_help(text: str, *examples: str) -> str:
    r"""Help with examples below it, each on a line of its own (`\b` keeps the lines apart)."""
    title = "Examples:" if len(examples) > 1 else "Example:"
    return f"{text}\n\n\b{title}\n" + "\n".join(f"  hf-learngene {example}" for example in examples)


@app.callback(
    invoke_without_command=True,
    help=example_help(
        "Start a vision or text encoder of any size from a checkpoint you already have.",
        "plan google/vit-base-patch16-224 --params 20M",
        "resize google/vit-base-patch16-224 vit-small --hidden-size 384",
    ),
)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    """Start a vision or text encoder of any size from a checkpoint you already have."""
    if version:
        typer.echo(f"hf_learngene {__version__}")
        raise typer.Exit


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
    vocab_size: VocabSize = None,
    corpus: Corpus = None,
    size: Size = None,
    params: Params = None,
    method: MethodName = "auto",
    option: Option = None,
    task: Task = None,
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
        vocab_size=vocab_size,
        revision=revision,
        token=token,
    )
    kept = None if corpus is None else _trimmed(source, corpus, given)[1]
    spec = ResizeSpec.parse(given, method=chosen, params=params, kept_tokens=kept, loads=True)
    typer.echo(str(_plan(source, spec, task)))


@app.command(
    "resize",
    help=example_help(
        "Make a model of another size, and save it with tokenizer or image processor. "
        "A larger one computes what its source computes; a smaller one is a start for training.",
        "resize google-bert/bert-base-uncased bert-24 --num-hidden-layers 24",
        "resize my-vit vit-quarter --hidden-size 192 --calibration images/",
        "resize my-bert bert-8000 --corpus texts.txt --vocab-size 8000",
    ),
)
def resize_command(
    source: Source,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.", show_default=False)],
    hidden_size: HiddenSize = None,
    num_hidden_layers: NumHiddenLayers = None,
    vocab_size: VocabSize = None,
    corpus: Corpus = None,
    size: Size = None,
    params: Params = None,
    method: MethodName = "auto",
    option: Option = None,
    task: Task = None,
    num_labels: Annotated[int | None, typer.Option(help="Labels of a new head.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="For every random number.")] = 0,
    dtype: Annotated[
        str | None, typer.Option(help=f"{', '.join(DTYPES)}. Default: the same.", show_default=False)
    ] = None,
    calibration: Annotated[
        str, typer.Option(metavar="DATA", help="Examples to shrink on, or synthetic, or none.")
    ] = "auto",
    calibration_examples: Annotated[int, typer.Option(metavar="COUNT", help="How many of them.", min=1)] = 512,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in OUTPUT.")] = False,
    revision: Revision = None,
    token: Token = None,
) -> None:
    """Make a model of another size, and save it with tokenizer or image processor."""
    from hf_learngene.hub.files import hub_keywords
    from hf_learngene.hub.load import pinned
    from hf_learngene.hub.output import check_output
    from hf_learngene.hub.sentence import check_modules
    from hf_learngene.resizing.spec import ResizeSpec

    data = None if calibration in ("auto", "synthetic", "none") else calibration
    check_output(output, overwrite, source, corpus, data)
    chosen = method_with_options(method, option)
    given = keywords(
        size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        vocab_size=vocab_size,
        num_labels=num_labels,
        revision=revision,
        token=token,
        dtype=dtype_name(dtype),
    )
    given = pinned(source, given)  # one state of the Hub for plan, weights, tokenizer and card
    tokenizer, kept = (None, None) if corpus is None else _trimmed(source, corpus, given)
    examples: Any = None if calibration == "none" else calibration
    spec = ResizeSpec.parse(
        given, method=chosen, params=params, seed=seed, calibration=examples, kept_tokens=kept, loads=True
    )
    made = _plan(source, spec, task)
    check_modules(source, hub_keywords(given), made.model_class, made.source_config, made.target_config)
    if data is not None:
        examples = _calibration_examples(data, made, source, given, calibration_examples, seed)
        spec = dataclasses.replace(spec, calibration=examples)
    if made.budget is not None:
        spec = spec.with_sizes({**spec.sizes, **_spent(source, made, made.budget, spec)})
        made = _plan(source, spec, task)
    typer.echo(str(made))

    from hf_learngene.hub.card import model_card
    from hf_learngene.hub.save import save_resized
    from hf_learngene.resizing.from_pretrained import load_resized

    tables: list[str] = []
    with status(f"Loading and resizing {source}"):
        model = load_resized(source, spec, choose_class=lambda _: made.model_class, tell=tables.append)
    for table in tables:
        typer.echo(f"\n{table}")
    loading = hub_keywords(given)
    with status(f"Writing {output}"):
        card = model_card(model, plan=made, source=source, loading=loading, name=output.name)
        save_resized(
            model, output, source=source, processing_class=tokenizer, loading=loading, card=card, overwrite=overwrite
        )
    typer.echo(f'\nSaved to {output}. Load it with {made.model_class.__name__}.from_pretrained("{output}").')


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
    from hf_learngene.vocabulary.trimming import trim_tokenizer

    loading = hub_keywords(given)
    config = load_config(source, loading)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **loading)
    except Exception as error:  # whatever damaged files make of the readers; `tokenizers` raises nothing but Exception
        raise CheckpointError(
            f"`{source}` has no tokenizer that transformers reads, so --corpus cannot trim it."
        ) from error
    try:
        with status(f"Reading {corpus}"), corpus.open(encoding="utf-8-sig") as lines:
            texts = (line.rstrip("\n") for line in lines)
            trimmed = trim_tokenizer(tokenizer, texts, given.get("vocab_size"), config=config)
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"`{corpus}` is not UTF-8 text. --corpus takes a file with one text on each line. ({error})"
        ) from error
    given["vocab_size"] = len(trimmed[1])
    return trimmed


def _calibration_examples(
    data: str, made: Plan, source: str, loading: Mapping[str, Any], limit: int, seed: int
) -> Any:
    """Calibration examples for a plan: with labels only where one of its methods needs them."""
    import torch

    from hf_learngene.calibration.processing import processor_of
    from hf_learngene.training.data import drawn_examples, read_data, training_data, unlabelled_data

    main_input = made.model_class.main_input_name
    dataset, processor = read_data(data), processor_of(source, main_input, loading)
    if not any(stage.method.needs_labels for stage in made.passes):
        return unlabelled_data(dataset, main_input, processor, limit=limit, seed=seed)
    with torch.device("meta"):
        skeleton = made.model_class(made.source_config)
    labelled = training_data(drawn_examples(dataset, limit, seed), skeleton, processor, seed=seed)
    batches = torch.utils.data.DataLoader(labelled.dataset, batch_size=32, collate_fn=labelled.collator)
    # a masked-LM collator masks anew each time, and calibration may read its examples more than once
    return [{k: v[i] for k, v in batch.items()} for batch in batches for i in range(len(batch["labels"]))]


def _spent(source: str, made: Plan, budget: str | int | float, spec: ResizeSpec) -> dict[str, int]:
    """The sizes that a plan's budget is spent on, by measured error; says why."""
    from hf_learngene.hub.load import load_whole
    from hf_learngene.resizing import allocate

    options = made.passes[0].method.options()
    with status("Measuring what each size is worth"):
        model = load_whole(source, made.model_class, **spec.loading)
        found = allocate(model, budget, spec.calibration, seed=made.seed, **options, **spec.sizes)
    typer.echo(f"{found}\n")
    return found.full


def _errors() -> Console:
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def status(text: str) -> Iterator[None]:
    """A line that moves while something takes time. Not on stdout, which may be a file."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # what it says of missing weights, the plan says in our words
    logging.disable_progress_bar()
    try:
        with _errors().status(text):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def main() -> None:
    """The entry point of `hf-learngene`."""
    # A job that is told to stop cleans up as one that is interrupted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an arrow that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="replace")
    app(prog_name="hf-learngene")
