"""`push`: a saved model or learngene to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_learngene.cli.app import app, example_help, status
from hf_learngene.cli.arguments import Token


@app.command(
    "push",
    help=example_help(
        "Publish a resized model or a learngene on the Hub: all of its folder in one commit, or nothing.\n\n"
        "A model card is written if there is none; one that was written by this package goes up under the repository's name, "
        "and replaces none that you wrote on the Hub. Checkpoints, optimizer states and pickled files stay here.",
        "push vit-wave me/vit-wave --private",
        "push vit-quarter me/vit-quarter --revision v2",
    ),
)
def push_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A saved model.", show_default=False)],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="user/name; made if need be.", show_default=False)],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a repository that is made.", show_default=False)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to; made if need be.", show_default=False)
    ] = None,
    commit_message: Annotated[str | None, typer.Option(help="First line of the commit.", show_default=False)] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    token: Token = None,
) -> None:
    """Publish a resized model or a learngene on the Hub: all of its folder in one commit, or nothing."""
    from hf_learngene.hub.push import check_pushable, push_folder

    check_pushable(folder, repo_id)
    if not (folder / "README.md").exists():
        with status("Writing the model card"):
            _write_card(folder, repo_id, token)
    with status(f"Uploading {folder}"):
        done = push_folder(
            folder,
            repo_id,
            token=token,
            private=private,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        )
    typer.echo(f"Published: {done.pr_url or done.repo_url}")


def _write_card(folder: Path, repo_id: str, token: str | None) -> None:
    from hf_learngene.hub.card import model_card
    from hf_learngene.hub.load import load_config, load_whole
    from hf_learngene.hub.origin import recorded_source
    from hf_learngene.learngenes import AutoLearngene, LearngeneConfig
    from hf_learngene.learngenes.card import learngene_card

    if isinstance(load_config(folder, {}), LearngeneConfig):
        text = learngene_card(AutoLearngene.from_pretrained(folder), repo_id)
    else:
        model = load_whole(str(folder))
        source, pinned = recorded_source(model.config)
        text = model_card(model, source=source, loading={**pinned, "token": token}, folder=folder, name=repo_id)
    (folder / "README.md").write_text(text, encoding="utf-8")
