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
from making import MOST_PARAMETERS, PLAIN, SLIDERS, Page, PageError, SizeField, Visit, without_folders
from transformers import PreTrainedTokenizerBase

from hf_learngene import push_resized
from hf_learngene.errors import LearngeneError


HOUR = 3600
TITLE = """# Any size of a ViT or BERT
A smaller one works at once, without data or training; a larger one computes what its source computes.
"""
PROGRESS = gr.Progress(track_tqdm=True)
SHARES = {"a half": 1 / 2, "a third": 1 / 3, "a quarter": 1 / 4}


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a visitor did wrong, in the page's own box. Raised, it would mark all that the function fills as broken."""

    @wraps(function)
    def asked(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except (LearngeneError, OSError) as error:
            gr.Warning(without_folders(str(error)), duration=20)
            return gr.skip()

    return asked


def build(page: Page) -> gr.Blocks:
    with gr.Blocks(title="Any size of a ViT or BERT", delete_cache=(HOUR, HOUR)) as blocks:
        gr.Markdown(TITLE)
        visit = gr.State(Visit, time_to_live=HOUR, delete_callback=Visit.leave)
        with gr.Row():
            name = gr.Dropdown(
                [*page.local], value=None, label="Model", allow_custom_value=True, elem_id="model", scale=3,
                info="An id of the Hub, such as google/vit-base-patch16-224",
            )  # fmt: skip
            files = gr.File(label="or a checkpoint's files", file_count="multiple", scale=2, height=110)
            look = gr.Button("Open", variant="primary", elem_id="open", scale=1)
        about = gr.Markdown("Open a checkpoint to see its sizes.", elem_id="about")
        with gr.Tab("Another size"):
            parts, opened = _resizing(page, visit)
        with gr.Tab("A learngene, and sizes from it"):
            _learngenes(page, visit)

        @told
        def open_(one: Visit, named: str | None, given: list[str] | None) -> tuple[Any, ...]:
            return page.open(one, named or "", given or []), *opened(one)

        # a name that is pressed while another is still looked for on the Hub is asked for after it
        look.click(open_, [visit, name, files], [about, *parts], trigger_mode="always_last", show_progress_on=[about])
    return blocks


def _resizing(page: Page, visit: gr.State) -> tuple[list[Any], Callable[[Visit], list[Any]]]:
    """Sliders, what they come to, and what is made: the components, and what becomes of them when a checkpoint is opened.

    All stand there from the beginning and are filled: what gradio draws anew (`gr.render`) loses a move in that moment, and the
    package's progress bars.
    """
    with gr.Column(visible=False) as whole:
        keep = gr.Checkbox(
            label="Keep the sizes that I leave alone (else they follow the source's proportions)", elem_id="keep"
        )
        with gr.Row():
            sliders = [_slider(name) for name in SLIDERS[:PLAIN]]
        with gr.Row():
            sliders += [_slider(name) for name in SLIDERS[PLAIN:]]
        cost = gr.Markdown(elem_id="cost")
        with gr.Accordion("Where each tensor comes from", open=False):
            table = gr.Code(language=None, elem_id="table")
        make = gr.Button("Make it", variant="primary", elem_id="make")
        said = gr.Markdown(elem_id="agreement", min_height=60)
        with gr.Row():
            download = gr.DownloadButton("Download", interactive=False, elem_id="download")
            repo = gr.Textbox(label="or push to", placeholder="you/name", interactive=True)
            token = gr.Textbox(label="your token", type="password", interactive=True)
            push = gr.Button("Push", interactive=False)
        trying, read_by = _trying(page, visit)

    def sizes(one: Visit, values: tuple[float, ...]) -> dict[str, int]:
        return {f.name: int(v or f.value) for f, v in zip(one.sliders, values, strict=True) if f is not None}

    @told
    def planned(one: Visit, kept: bool, *values: float) -> list[Any]:
        cost, tensors, follows = page.planned(one, sizes(one, values), kept)
        return [cost, tensors, *(gr.skip() if f is None else gr.update(info=follows[f.name]) for f in one.sliders)]

    @told
    def made(one: Visit, kept: bool, progress: Any = PROGRESS, *values: float) -> tuple[Any, ...]:
        progress(0, desc="Reading the weights")
        agreed = page.make(one, sizes(one, values), kept)
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

    def opened(one: Visit) -> list[Any]:
        cost, tensors, _ = page.planned(one, {})
        nothing_made = ["", gr.update(value=None, interactive=False), gr.update(interactive=False)]
        return [gr.update(visible=True), *map(_moved, one.sliders), cost, tensors, *nothing_made, *read_by(one)]

    gr.on(
        [keep.input, *(slider.input for slider in sliders)],
        planned,
        [visit, keep, *sliders],
        [cost, table, *sliders],
        trigger_mode="always_last",
        show_progress="hidden",
    )
    make.click(made, [visit, keep, *sliders], [said, download, push], show_progress_on=[said])
    push.click(pushed, [visit, repo, token], said)
    return [whole, *sliders, cost, table, said, download, push, *trying], opened


def _slider(name: str) -> gr.Slider:
    # without a button to reset it, which would know of no checkpoint
    return gr.Slider(visible=False, interactive=True, elem_id=name, buttons=[])


def _moved(field: SizeField | None) -> Any:
    """A slider as a size of the opened checkpoint has it."""
    if field is None:
        return gr.update(visible=False)
    return gr.update(
        visible=True,
        minimum=field.least,
        maximum=field.most,
        step=field.step,
        value=field.value,
        label=field.name,
        info="",
    )


def _trying(page: Page, visit: gr.State) -> tuple[list[Any], Callable[[Visit], list[Any]]]:
    """Both models side by side: the components, and what becomes of them when a checkpoint is opened."""
    gr.Markdown("### Try both")
    with gr.Row(elem_id="ask-inputs"):
        texts = [
            gr.Textbox(label=label, visible=False, interactive=True, elem_id=f"try-{i}")
            for i, label in enumerate(("a sentence", "another (for models without a head)"))
        ]
        images = [
            gr.Image(type="pil", label=label, visible=False, interactive=True, height=180)
            for label in ("an image", "another (for models without a head)")
        ]
    run = gr.Button("Ask both", elem_id="ask")
    with gr.Row():
        outputs = [gr.Label(label=label, elem_id=f"said-{i}") for i, label in enumerate(("source", "result"))]

    @told
    def ask(one: Visit, *given: Any) -> list[dict[str, float]]:
        if one.made is None:
            raise PageError("There is no model yet: make one first.")
        if one.processor is None:
            raise PageError(one.unread)
        return answers([page.load(one), one.made], one.processor, given[:2] if _reads_texts(one) else given[2:])

    def opened(one: Visit) -> list[Any]:
        shown = [_reads_texts(one)] * 2 + [not _reads_texts(one)] * 2
        return [*(gr.update(visible=seen, value=None) for seen in shown), None, None]

    run.click(ask, [visit, *texts, *images], outputs)
    return [*texts, *images, *outputs], opened


def _reads_texts(one: Visit) -> bool:
    return isinstance(one.processor, PreTrainedTokenizerBase)


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
