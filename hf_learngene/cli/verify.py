"""`verify`: whether a grown model computes what its source computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hf_learngene.cli.app import app, example_help, status
from hf_learngene.cli.arguments import DTYPES, Source, Token, dtype_name, keywords
from hf_learngene.errors import CheckpointError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


@app.command(
    "verify",
    help=example_help(
        "Measure whether a grown model computes what its source computes.\n\n"
        "Both get the same random inputs. The exit status is 0 if they agree up to rounding, 1 if they do not.",
        "verify google-bert/bert-base-uncased bert-24 --dtype float64",
    ),
)
def verify_command(
    source: Source,
    grown: Annotated[
        str, typer.Argument(metavar="GROWN", help="The resized model: a Hub id or a folder.", show_default=False)
    ],
    dtype: Annotated[
        str | None, typer.Option(help=f"Compute in {', '.join(DTYPES)}. Default: as stored.", show_default=False)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of SOURCE on the Hub.", show_default=False)
    ] = None,
    token: Token = None,
) -> None:
    """Measure whether a grown model computes what its source computes."""
    import torch

    from hf_learngene.resizing import verify

    wanted = dtype_name(dtype)
    with status("Loading both models"):
        first, second = _load_pair(source, grown, revision, token)
    with status("Comparing"):
        report = verify(first, second, dtype=getattr(torch, wanted) if wanted else None)
    typer.echo(str(report))
    if not report.function_preserving:
        raise typer.Exit(1)


def _load_pair(
    source: str, grown: str, revision: str | None, token: str | None
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Both models by the class that both checkpoints fill: the common head, or the encoder alone."""
    from hf_learngene.hub.load import load_config, load_whole, pinned
    from hf_learngene.hub.tasks import class_of_checkpoint
    from hf_learngene.resizing.auto import AutoModel

    at_source = pinned(source, keywords(None, revision=revision, token=token))
    at_grown = pinned(grown, keywords(None, token=token))
    configs = [load_config(source, at_source), load_config(grown, at_grown)]
    first, second = (class_of_checkpoint(config) for config in configs)
    if first.main_input_name != second.main_input_name:
        raise CheckpointError(f"`{source}` takes {first.main_input_name}, `{grown}` takes {second.main_input_name}.")
    if first is not second:
        first, second = (AutoModel.class_for(config) for config in configs)
    return load_whole(source, first, **at_source), load_whole(grown, second, **at_grown)
