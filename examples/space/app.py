"""The page: `python examples/space/app.py`, or a Hugging Face Space.

python examples/space/app.py --local MiniLM=path/to/checkpoint
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
from answers import answers
from making import MOST_PARAMETERS, Page, PageError, SizeField, Visit, without_folders
from transformers import PreTrainedTokenizerBase

from hf_learngene import push_resized
from hf_learngene.errors import LearngeneError


HOUR = 3600
TITLE = """# Any size of a ViT or BERT
A smaller one works at once, without data or training; a larger one computes what its source computes.
"""
PROGRESS = gr.Progress(track_tqdm=True)
NOTHING_MADE = (gr.update(visible=True), "", gr.update(value=None, interactive=False), gr.update(interactive=False))
SHARES = {"a half": 1 / 2, "a third": 1 / 3, "a quarter": 1 / 4}


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a visitor did wrong, in the page's own box instead of a trace."""

    @wraps(function)
    def asked(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except (LearngeneError, OSError) as error:
            raise gr.Error(without_folders(str(error)), duration=20, print_exception=False) from None

    return asked


def build(page: Page) -> gr.Blocks:
    with gr.Blocks(title="Any size of a ViT or BERT", delete_cache=(HOUR, HOUR)) as blocks:
        gr.Markdown(TITLE)
        visit = gr.State(Visit, time_to_live=HOUR, delete_callback=Visit.leave)
        opened = gr.State(0)  # changes with the checkpoint, so that the sliders are drawn anew
        with gr.Row():
            name = gr.Dropdown(
                [*page.local], value=None, label="Model", allow_custom_value=True, elem_id="model", scale=3,
                info="An id of the Hub, such as google/vit-base-patch16-224",
            )  # fmt: skip
            files = gr.File(label="or a checkpoint's files", file_count="multiple", scale=2, height=110)
            look = gr.Button("Open", variant="primary", elem_id="open", scale=1)
        about = gr.Markdown("Open a checkpoint to see its sizes.", elem_id="about")
        with gr.Tab("Another size"):
            results = _resizing(page, visit, opened)
        with gr.Tab("A learngene, and sizes from it"):
            _learngenes(page, visit)

        @told
        def open_(one: Visit, named: str | None, given: list[str] | None) -> tuple[Any, ...]:
            said = page.open(one, named or "", given or [])
            return said, one.opened, *NOTHING_MADE

        # a name that is pressed while another is still looked for on the Hub is asked for after it
        look.click(open_, [visit, name, files], [about, opened, *results], trigger_mode="multiple")
    return blocks


def _resizing(page: Page, visit: gr.State, opened: gr.State) -> tuple[Any, ...]:
    """Sliders, what came of them, and what to do with it: the components that an opened checkpoint empties."""
    wanted = gr.State()  # changes with each press of the button: (how many, sizes)

    # once for each checkpoint and not when the page is loaded: what is drawn anew leaves events of what was there before behind
    @gr.render(inputs=[visit], triggers=[opened.change])
    def sliders(one: Visit) -> None:
        gr.Markdown("Sizes that you leave alone follow the source's proportions.")
        with gr.Row():
            moved = [_slider(field) for field in one.fields]
        cost = gr.Markdown(elem_id="cost")
        with gr.Accordion("Where each tensor comes from", open=False):
            table = gr.Code(language=None, elem_id="table")
        make = gr.Button("Make it", variant="primary", elem_id="make")

        def sizes(values: tuple[float, ...]) -> dict[str, int]:
            return {f.name: int(v) for f, v in zip(one.fields, values, strict=True)}

        def pressed(before: tuple[int, Any] | None, *values: float) -> tuple[int, dict[str, int]]:
            return (before or (0, None))[0] + 1, sizes(values)

        @told
        def planned(*values: float) -> list[Any]:
            said, tensors, follows = page.planned(one, sizes(values))
            return [said, tensors, *(gr.update(info=text) for text in follows)]

        gr.on(
            [slider.change for slider in moved],
            planned,
            moved,
            [cost, table, *moved],
            trigger_mode="always_last",
            show_progress="hidden",
        )
        cost.value, table.value, *_ = planned(*(f.value for f in one.fields))
        make.click(pressed, [wanted, *moved], wanted)

    with gr.Column(visible=False) as result:
        said = gr.Markdown(elem_id="agreement")
        with gr.Row():
            download = gr.DownloadButton("Download", interactive=False, elem_id="download")
            repo = gr.Textbox(label="or push to", placeholder="you/name", interactive=True)
            token = gr.Textbox(label="your token", type="password", interactive=True)
            push = gr.Button("Push", interactive=False)

    # not in what is drawn: gradio shows the package's progress bars only of functions outside of it
    @told
    def made(one: Visit, asked: tuple[int, dict[str, int]], progress: Any = PROGRESS) -> tuple[Any, ...]:
        progress(0, desc="Reading the weights")
        agreed = page.make(one, asked[1])
        return (
            f"The model {agreed}.",
            gr.update(value=str(page.saved(one)), interactive=True),
            gr.update(interactive=True),
        )

    @told
    def pushed(one: Visit, repo_id: str, key: str) -> str:
        if not repo_id or not key:
            raise PageError("To push, give the repository's name and a token that may write to it.")
        return f"Pushed: {push_resized(one.made, repo_id, source=one.source, token=key).commit_url}"

    wanted.change(made, [visit, wanted], [said, download, push])
    push.click(pushed, [visit, repo, token], said)

    @gr.render(inputs=[visit], triggers=[opened.change])
    def trying(one: Visit) -> None:
        _trying(page, one)

    return result, said, download, push


def _slider(field: SizeField) -> gr.Slider:
    return gr.Slider(
        field.least,
        field.most,
        value=field.value,
        step=field.step,
        label=field.name,
        interactive=True,
        elem_id=field.name.replace(".", "-"),
    )


def _trying(page: Page, one: Visit) -> None:
    """Both models side by side."""
    gr.Markdown("### Try both")
    texts = isinstance(one.processor, PreTrainedTokenizerBase)
    with gr.Row(elem_id="ask-inputs"):
        inputs: list[Any] = [
            gr.Textbox(label=label, interactive=True, elem_id=f"try-{i}")
            if texts
            else gr.Image(type="pil", label=label, interactive=True, height=180)
            for i, label in enumerate(
                ("a sentence", "another (for models without a head)") if texts else ("an image", "another")
            )
        ]
    run = gr.Button("Ask both", elem_id="ask")
    with gr.Row():
        outputs = [gr.Label(label=label, elem_id=f"said-{i}") for i, label in enumerate(("source", "result"))]

    @told
    def ask(*given: Any) -> list[dict[str, float]]:
        if one.made is None:
            raise PageError("There is no model yet: make one first.")
        if one.processor is None:
            raise PageError(one.unread)
        return answers([page.load(one), one.made], one.processor, given)

    run.click(ask, inputs, outputs)


def _learngenes(page: Page, visit: gr.State) -> None:
    gr.Markdown("A learngene is a compact core of the open checkpoint, from which models of many sizes are made.")
    with gr.Row():
        share = gr.Radio(list(SHARES), value="a third", label="stored")
        condense = gr.Button("Condense", variant="primary", elem_id="condense")
    about = gr.Markdown(elem_id="learngene")
    with gr.Row():
        depths = gr.Textbox("3, 4, 6", label="layers", elem_id="depths")
        descend = gr.Button("Make these", elem_id="descend")
    table = gr.Markdown(elem_id="descendants")
    files = gr.Files(label="models", elem_id="models")

    @told
    def condensed(one: Visit, chosen: str, progress: Any = PROGRESS) -> str:
        progress(0, desc="Condensing")
        return page.condense(one, SHARES[chosen])

    @told
    def descended(one: Visit, text: str, progress: Any = PROGRESS) -> tuple[str, list[str]]:
        try:
            wanted = [int(part) for part in text.split(",")]
        except ValueError:
            raise PageError(f"Layers are whole numbers, such as 3, 4, 6; it was {text!r}.") from None
        progress(0, desc="Making models")
        return page.descend(one, wanted), [str(path) for path in one.descendants.values()]

    condense.click(condensed, [visit, share], about)
    descend.click(descended, [visit, depths], [table, files])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--local", action="append", default=[], metavar="NAME=FOLDER", help="a checkpoint to offer")
    parser.add_argument("--most", type=int, default=MOST_PARAMETERS, help="parameters of the largest model")
    parser.add_argument("--port", type=int)
    options = parser.parse_args(arguments)
    page = Page(dict(one.split("=", 1) for one in options.local), options.most)
    blocks = build(page).queue(default_concurrency_limit=1, max_size=20)
    blocks.launch(server_port=options.port, max_file_size="2gb", allowed_paths=[], footer_links=[])


if __name__ == "__main__":
    main()
