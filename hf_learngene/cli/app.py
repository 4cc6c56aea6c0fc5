"""The command line's app: its root, its errors, and `main`. The commands stand in files beside it.

Heavy imports wait for the command that needs them, so that `--help` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hf_learngene._version import __version__
from hf_learngene.errors import LearngeneError


if TYPE_CHECKING:
    from rich.console import Console


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


def _errors() -> Console:
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def status(text: str, bars: bool = False) -> Iterator[None]:
    """A line that moves while something takes time, or stands above progress bars. Not on stdout, which may be a file."""
    from transformers.utils import logging

    level, enabled = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # what it says of missing weights, the plan says in our words
    if not bars:
        logging.disable_progress_bar()
    try:
        if bars:
            if (console := _errors()).is_terminal:  # as the line that moves
                console.print(text, markup=False, highlight=False)
            yield
        else:
            with _errors().status(text):
                yield
    finally:
        logging.set_verbosity(level)
        if enabled:
            logging.enable_progress_bar()


def main() -> None:
    """The entry point of `hf-learngene`."""
    # A job that is told to stop cleans up as one that is interrupted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an arrow that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="replace")
    app(prog_name="hf-learngene")
