"""What the commands take, and how it is read."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_learngene.errors import UnknownOptionError, nearest


if TYPE_CHECKING:
    from hf_learngene.methods import Method


DTYPES = ("float32", "bfloat16", "float16", "float64")
Source = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="A Hub id, or a folder with config.json and weights.", show_default=False),
]
HiddenSize = Annotated[int | None, typer.Option(help="Width. Heads and ffn follow it.", show_default=False)]
NumHiddenLayers = Annotated[int | None, typer.Option(help="Depth.", show_default=False)]
# They work as they are typed, beside the two that fit into the help; `--size` takes every other.
IntermediateSize = Annotated[int | None, typer.Option(hidden=True)]
NumAttentionHeads = Annotated[int | None, typer.Option(hidden=True)]
Params = Annotated[
    str | None,
    typer.Option(metavar="COUNT", help="A budget instead: 20M, or 0.25 of the source.", show_default=False),
]
Flops = Annotated[
    str | None, typer.Option(metavar="COUNT", help="The same for FLOPs: 4G, or a share.", show_default=False)
]
Latency = Annotated[
    str | None, typer.Option(metavar="TIME", help="The same for time on this CPU: 20ms.", show_default=False)
]
Size = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Another size by its config name. Repeatable.", show_default=False),
]
VocabSize = Annotated[int | None, typer.Option(help="Tokens. With --corpus, at most so many.", show_default=False)]
Corpus = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep the tokens of these texts, one a line.", show_default=False),
]
MethodName = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="See `hf-learngene methods`.",
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="An option of the method. Repeatable.", show_default=False),
]
Calibration = Annotated[
    str,
    typer.Option(metavar="DATA", help="A path, a Hub id, or none; else made up.", show_default=False),
]
CalibrationColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of texts or images; a pair: NAME,NAME.", show_default=False)
]
CalibrationSize = Annotated[int, typer.Option(metavar="COUNT", min=1, help="Examples at most.")]
ProcessingClass = Annotated[
    str | None, typer.Option(metavar="NAME", help="Another tokenizer or image processor.", show_default=False)
]
Task = Annotated[
    str | None,
    typer.Option(help="A head like fill-mask, or base.", show_default=False),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.", show_default=False)]
Token = Annotated[str | None, typer.Option(help="Hub token. Default: your login's.", show_default=False)]


def keywords(sizes: list[str] | None, flag: str = "--size", **named: Any) -> dict[str, Any]:
    """The keywords that were given, those of `--size` (or of `flag`) among them.

    Raises:
        UnknownOptionError: a name that is no size, or one given twice.
    """
    from hf_learngene.resizing.spec import LABELS, LOADING, REFUSED

    found = {name: value for name, value in named.items() if value is not None}
    for name, value in _pairs(flag, sizes, "num_attention_heads=6"):
        if name in found:
            raise UnknownOptionError(f"{name!r} was given twice.")
        if name in LOADING | LABELS | REFUSED.keys() or name in (
            "method",
            "params",
            "flops",
            "latency",
            "seed",
            "source",
            "model_class",
        ):
            raise UnknownOptionError(
                f"{name!r} is not a size, so {flag} cannot set it. Sizes are config fields, such as num_attention_heads."
            )
        found[name] = _value(value)
    return found


def options_of(options: list[str] | None) -> dict[str, Any]:
    """`--option NAME=VALUE` as keywords."""
    return {k: _value(v) for k, v in _pairs("--option", options, "num_stages=4")}


def method_with_options(name: str, options: list[str] | None) -> Method | str:
    """The method with its options.

    Raises:
        UnknownOptionError: no such method, no such option, or an option without a method to take it.
    """
    from hf_learngene.methods import METHODS, make_method
    from hf_learngene.methods.registry import option_owners

    given = {k: _value(v) for k, v in _pairs("--option", options, "element_selection=consecutive")}
    if name in METHODS:
        for field in fields(METHODS[name]):
            if isinstance(field.default, tuple) and field.name in given and not isinstance(given[field.name], list):
                given[field.name] = [given[field.name]]  # a list of one
    chosen = make_method(name, given)
    if chosen is None and given:
        option = next(iter(given))
        owners = option_owners(option)
        hint = f"It is an option of {', '.join(owners)}: add --method {owners[0]}." if owners else _likely(option)
        raise UnknownOptionError(f"--method auto has no option {option!r}. {hint}")
    return chosen or name


def _likely(option: str) -> str:
    from hf_learngene.methods import METHODS

    likely = nearest(option, {field.name for method in METHODS.values() for field in fields(method)})
    return f"No method has it.{likely} `hf-learngene methods` lists the options of each."


def _pairs(flag: str, given: list[str] | None, example: str) -> list[tuple[str, str]]:
    found = []
    for text in given or []:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise UnknownOptionError(f"{flag} takes NAME=VALUE, such as {example}; it was {text!r}.")
        found.append((name.strip().replace("-", "_"), value.strip()))
    return found


def _value(text: str) -> Any:
    """`6`, `0.5`, `true`, a list `0,2,4`, lists of lists `[[0,1],[2]]`, a pair `224x160`, or the text itself."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if "," in text:
        return [_value(part.strip()) for part in text.split(",") if part.strip()]
    if re.fullmatch(r"\d+x\d+", text):
        height, width = text.split("x")
        return (int(height), int(width))
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def columns_of(text: str | None) -> str | tuple[str, str] | None:
    """A column, or the two of a pair.

    Raises:
        UnknownOptionError: more than two.

    Example:
        >>> columns_of("text"), columns_of("premise, hypothesis")
        ('text', ('premise', 'hypothesis'))
    """
    if text is None or "," not in text:
        return text
    first, _, second = (part.strip() for part in text.partition(","))
    if not first or not second or "," in second:
        raise UnknownOptionError(f"--calibration-column is a column, or two of a pair as NAME,NAME; it was {text!r}.")
    return first, second


def dtype_name(name: str | None) -> str | None:
    """The name, if there is such a dtype.

    Raises:
        UnknownOptionError: there is none.
    """
    if name is not None and name not in DTYPES:
        raise UnknownOptionError(f"--dtype is one of {', '.join(DTYPES)}; it was {name!r}.{nearest(name, DTYPES)}")
    return name
