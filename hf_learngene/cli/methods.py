"""`methods`: what `--method` and `--learngene-type` take, from the registries."""

from __future__ import annotations

import inspect
import shutil
from typing import TYPE_CHECKING, Annotated

import typer

from hf_learngene.cli.app import app, example_help
from hf_learngene.errors import UnknownOptionError, nearest


if TYPE_CHECKING:
    from rich.table import Table

    from hf_learngene.learngenes import LearngeneConfig
    from hf_learngene.methods import Method

AUTO_DOES = "lemon for sizes that grow; calibrated for those that shrink, on made-up examples unless some are given"
NARROWEST = 60  # columns; below that every cell would be a column of single words


@app.command(
    "methods",
    help=example_help(
        "List what --method and --learngene-type take: what each does, and the paper it is from.\n\n"
        "With NAME, explain one of them and its options.",
        "methods",
        "methods lemon",
    ),
)
def methods_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A method or a kind of learngene.", show_default=False)
    ] = None,
) -> None:
    """List what --method and --learngene-type take: what each does, and the paper it is from."""
    import hf_learngene.learngenes  # noqa: F401  each kind registers itself
    from hf_learngene.learngenes.registry import registered_learngenes
    from hf_learngene.methods.registry import AUTO, METHODS
    from hf_learngene.tables import render

    kinds = registered_learngenes()
    if name is None:
        width = max(NARROWEST, shutil.get_terminal_size().columns)
        for table in (_methods_table(METHODS), _learngenes_table(kinds)):
            typer.echo(f"{render(table, width)}\n")
        typer.echo("hf-learngene methods NAME explains one and its options.")
    elif name in METHODS:
        typer.echo(f"--method {name}{_paper(METHODS[name])}\n\n{inspect.getdoc(METHODS[name])}")
    elif name in kinds:
        typer.echo(f"--learngene-type {name}{_paper(kinds[name])}\n\n{inspect.getdoc(kinds[name])}")
    elif name == AUTO:
        typer.echo(f"--method {AUTO}    The default: {AUTO_DOES}.")
    else:
        names = [AUTO, *METHODS, *kinds]
        raise UnknownOptionError(
            f"There is no method or learngene {name!r}; there are {', '.join(names)}.{nearest(name, names)}"
        )


def _methods_table(methods: dict[str, type[Method]]) -> Table:
    table = _table("--method", "shrinks", "grows", "data", "what it does", "paper")
    table.add_row("auto", "yes", "yes", "unlabelled", AUTO_DOES, "")
    for name in sorted(methods):
        method = methods[name]
        data = "labelled" if method.needs_labels else "unlabelled" if method.needs_examples else ""
        data = "to train on" if method.learns else data
        ways = ("yes" if method.shrinks else "", "yes" if method.grows else "")
        table.add_row(name, *ways, data, method.summary, method.paper.arxiv if method.paper else "")
    return table


def _learngenes_table(kinds: dict[str, type[LearngeneConfig]]) -> Table:
    table = _table("--learngene-type", "what it stores", "paper")
    for name in sorted(kinds):
        paper = kinds[name].paper
        table.add_row(name, kinds[name].summary, paper.arxiv if paper else "")
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column.startswith("--"), overflow="fold")
    return table


def _paper(described: type[Method] | type[LearngeneConfig]) -> str:
    return f"    {described.paper.title}, {described.paper.url}" if described.paper else ""
