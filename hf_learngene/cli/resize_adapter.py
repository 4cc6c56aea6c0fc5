"""`resize-adapter`: an adapter carried to a base that was resized."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_learngene.cli.app import app, example_help, status


@app.command(
    "resize-adapter",
    help=example_help(
        "Carry an adapter (LoRA, DoRA, IA³) to its base after that was resized, and save it.\n\n"
        "Grown without loss, base and adapter compute what they did; shrunk, the adapter keeps what the base keeps.",
        "resize-adapter my-lora bert-24 my-lora-24",
        "resize-adapter my-lora bert-24 my-lora-24 --source google-bert/bert-base-uncased",
    ),
)
def resize_adapter_command(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Its folder or Hub id, as peft saved it.", show_default=False)
    ],
    resized_base: Annotated[
        str, typer.Argument(metavar="RESIZED_BASE", help="What `resize` made of its base.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.", show_default=False)],
    source: Annotated[
        str | None, typer.Option(help="The base. Default: the one that the adapter names.", show_default=False)
    ] = None,
) -> None:
    """Carry an adapter to its base after that was resized, and save it."""
    from hf_learngene.hub.output import check_output, whole_or_absent
    from hf_learngene.resizing.adapted import resize_adapter

    path = check_output(output, False, adapter, resized_base, source)
    with status(f"Carrying {adapter} to {resized_base}"):
        made = resize_adapter(adapter, resized_base, source)
    with status(f"Writing {output}"), whole_or_absent(path, False, 0) as folder:
        made.save_pretrained(str(folder))
    typer.echo(f'Saved to {output}. Load it with PeftModel.from_pretrained(base, "{output}").')
