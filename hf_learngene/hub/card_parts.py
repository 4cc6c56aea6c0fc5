"""Parts that every card has: metadata, licence, links, papers and measured figures."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig, PreTrainedModel
from yaml import YAMLError

from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.hub.files import source_files
from hf_learngene.hub.markdown import code_span, plain, table
from hf_learngene.hub.tasks import TASKS, class_for
from hf_learngene.methods import METHODS, Paper
from hf_learngene.methods.geometry import Geometry
from hf_learngene.vocabulary import KeptTokens


logger = logging.getLogger(__name__)
_LICENSE_FIELDS = ("license", "license_name", "license_link")
_MARK = "<!-- Written by hf_learngene"
OURS = f"{_MARK} and written anew at the next save or push: remove this line to keep what you change. -->"
_LOADED = re.compile(r'((?:\.from_pretrained|SentenceTransformer)\(")(?:[^"\\\n]|\\.)*')
_INTRODUCTION = re.compile(r"(?ms)(^# [^\n]*\n).*?(?=^## )")  # what stands between the title and the first section


class Described(NamedTuple):
    """What is said of a maker of models: what it is, its paper, and whether what it makes works before any training."""

    summary: str
    paper: Paper | None = None
    works: bool = False


# What made a model, beside the methods: name -> what it is, and its paper. Learngenes enter themselves.
DESCRIBED = {made.name: Described(made.summary) for made in (KeptTokens, Geometry)}


@dataclass(frozen=True)
class Result:
    """Figures that were measured of a model, for its card.

    Args:
        dataset (`str`): Hub id of the data set, or its name.
        metrics (`Mapping[str, float]`): name of the metric -> value.
        split (`str`, *optional*, defaults to `"test"`): of the data set.
        sizes (`Mapping[str, Any]`, *optional*): of the model that was measured, where the card is of several.
    """

    dataset: str
    metrics: Mapping[str, float]
    split: str = "test"
    sizes: Mapping[str, Any] | None = None

    @property
    def shown_sizes(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in (self.sizes or {}).items())


def card_text(data: ModelCardData, sections: Sequence[str]) -> str:
    """The text of README.md."""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(s for s in (*sections, OURS) if s) + "\n"))


def is_ours(card: str) -> bool:
    """Whether a card was written here, and nobody has taken it over."""
    return any(line.startswith(_MARK) for line in card.splitlines())


def renamed(card: str, name: str) -> str:
    r"""A card of ours for another repository: title, `model-index` and the code to load it by. All else stays.

    Example:
        >>> print(renamed('# small\n\n```python\nmodel = BertModel.from_pretrained("small")\n```', "me/tiny"))
        # tiny
        <BLANKLINE>
        ```python
        model = BertModel.from_pretrained("me/tiny")
        ```
    """
    title = os.path.basename(name)
    card = re.sub(r"(?m)^(model-index:\r?\n- name: )[^\r\n]*", rf"\g<1>{json.dumps(title)}", card, count=1)
    card = re.sub(r"(?m)^# [^\r\n]*", f"# {title}", card, count=1)
    return re.sub(r"(?s)```python\r?\n.*?```", lambda found: _LOADED.sub(rf"\g<1>{name}", found[0]), card, count=1)


def with_introduction(card: str, other: str) -> str:
    """A card with what another one says between its title and its first section: what the model is, and may claim."""
    said = _INTRODUCTION.search(other)
    return card if said is None else _INTRODUCTION.sub(lambda old: old[1] + said[0][len(said[1]) :], card, count=1)


def metadata(
    *,
    name: str,
    base_model: str | None,
    task: str | None,
    library: str,
    tags: Sequence[str],
    license: Mapping[str, Any],
    results: Sequence[Result],
) -> ModelCardData:
    """Metadata of a card; measured figures become its model-index."""
    measured = [
        EvalResult(
            task_type=task or "other", dataset_type=r.dataset, dataset_name=r.dataset, dataset_split=r.split, metric_type=metric,
            metric_value=value, metric_name=f"{metric} ({r.shown_sizes})" if r.sizes else metric,
        )
        for r in results
        for metric, value in r.metrics.items()
    ]  # fmt: skip
    found: dict[str, Any] = dict(license)
    if measured:
        found |= {"model_name": name, "eval_results": measured}
        # the Hub links every name that is an id; local data is named so that it is none
        found["datasets"] = [name for name in dict.fromkeys(r.dataset for r in results) if is_repository(name)] or None
        found["metrics"] = list(dict.fromkeys(m for r in results for m in r.metrics))
    return ModelCardData(
        base_model=base_model, library_name=library, pipeline_tag=task, tags=list(dict.fromkeys(tags)), **found
    )


def results_table(results: Sequence[Result]) -> str:
    """Measured figures, a row for each."""
    if not results:
        return ""
    rows = [
        [r.shown_sizes or "this", f"{r.dataset}, {r.split}", metric, f"{value:.4g}"]
        for r in results
        for metric, value in r.metrics.items()
    ]
    return "## Measured\n\n" + table([["model", "data", "metric", "value"], ["---", "---", "---", "---:"], *rows])


def license_of(source: str | os.PathLike | None, loading: Mapping[str, Any]) -> dict[str, Any]:
    """The licence of a source: it goes with the weights."""
    if source is None:
        return {}
    for file in source_files(source, ("README.md",), loading):
        try:
            # A licence that this version of the Hub client does not know is carried all the same.
            data = ModelCard.load(file, ignore_metadata_errors=True).data
        except (ValueError, YAMLError) as error:
            logger.warning("README.md of the source cannot be read, so its licence is not carried over: %s", error)
            return {}
        return {k: getattr(data, k) for k in _LICENSE_FIELDS if getattr(data, k, None)}
    return {}


def pipeline_tag(config: PreTrainedConfig, cls: type[PreTrainedModel]) -> str | None:
    """The Hub's name for what models of a class do."""
    for task, auto in TASKS.items():
        try:
            found = class_for(auto, config) is cls
        except UnsupportedFamilyError:
            continue
        if found and task != "base":
            return task
        if found:
            return "image-feature-extraction" if cls.main_input_name == "pixel_values" else "feature-extraction"
    return None


def link(name: str, commit: str | None, on_hub: bool) -> str:
    """A model by name; a link where the Hub has it."""
    text = f"[{name}](https://huggingface.co/{name})" if on_hub and is_repository(name) else code_span(name)
    return text + (f" (commit {code_span(commit)})" if commit else "")


def is_repository(name: str) -> bool:
    """Whether the Hub could have a repository of this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def method_text(name: str, options: Mapping[str, Any]) -> str:
    """A method with its options, and its paper as BibTeX."""
    method = METHODS.get(name)
    summary, paper = (method.summary, method.paper) if method else DESCRIBED.get(name, Described(""))[:2]
    given = ", ".join(code_span(f"{k}={v!r}") for k, v in options.items())
    text = f"**{plain(name)}**{f': {summary}' if summary else ''}{f' ({given})' if given else ''}."
    return text if paper is None else f"{text} [{paper.title}]({paper.url}).\n\n```bibtex\n{_bibtex(paper)}\n```"


def _bibtex(paper: Paper) -> str:
    title = f"{{{paper.title}}}"  # the second pair of braces keeps capitals as they are
    if paper.arxiv:
        key, fields = f"arxiv{paper.arxiv}", {"title": title, "year": f"20{paper.arxiv[:2]}", "eprint": paper.arxiv,
                                              "archivePrefix": "arXiv", "url": paper.url}  # fmt: skip
    else:
        key = paper.venue.replace(" ", "").lower()
        fields = {"title": title, "year": paper.venue[-4:], "howpublished": paper.venue, "url": paper.url}
    return f"@misc{{{key},\n" + ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items()) + "\n}"


def code(text: str) -> str:
    """A section that says how to use it."""
    return f"## Use\n\n```python\n{text}\n```"
