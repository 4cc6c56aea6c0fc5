"""`resize --trainer-checkpoint`: a training that goes on in a larger model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from hf_learngene.cli.app import status
from hf_learngene.cli.arguments import method_with_options


def grow_trainer_checkpoint(
    source: str,
    output: Path,
    method: str,
    option: list[str] | None,
    seed: int,
    overwrite: bool,
    sizes: dict[str, Any],
) -> None:
    """Grows a Trainer's checkpoint, and says how to go on. `--option reset=copies` is no option of the method, but of this."""
    from hf_learngene.resizing.trainer_checkpoint import resize_trainer_checkpoint

    own = [given for given in option or [] if not given.startswith("reset=")]
    reset = next((given.removeprefix("reset=") for given in option or [] if given.startswith("reset=")), None)
    chosen = method_with_options(method, own)
    with status(f"Growing {source}"):
        resize_trainer_checkpoint(source, output, method=chosen, seed=seed, reset=reset, overwrite=overwrite, **sizes)
    typer.echo(
        f'Saved to {output}. Go on with trainer.train(resume_from_checkpoint="{output}"), a trainer of its model.'
    )


__all__ = ["grow_trainer_checkpoint"]
