"""Docstrings as transformers writes them, read by Sphinx: Markdown's links and code, and signatures without what is inherited."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyXRefRole
from transformers import PreTrainedConfig, TrainingArguments
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from hf_learngene.learngenes import LearngeneConfig
from hf_learngene.methods import Method


NAME = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)(\(\))?")
LINK = re.compile(r"\[([^\]`]+)\]\((https?://[^)\s]+)\)")


def code(name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Single backticks: code, and a link where it names an entry."""
    if name := NAME.fullmatch(text):
        return PyXRefRole()("py:obj", rawtext, f"{text} <{name[1]}>", lineno, inliner)
    return [nodes.literal(rawtext, text)], []


def facts(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """How a method or learngene is asked for, where it comes from, and which way it goes: the class itself knows."""
    if what != "class" or not issubclass(obj, (Method, LearngeneConfig)):
        return
    key = "method" if issubclass(obj, Method) else "learngene_type"
    asked = obj.name if issubclass(obj, Method) else obj.learngene_type
    if not asked:
        return
    words = [f'`{key}="{asked}"`', *(w for w in ("grows", "shrinks", "lossless") if getattr(obj, w, False))]
    words += [f"[{obj.paper.title}]({obj.paper.url})"] if obj.paper else []
    lines[:0] = [" · ".join(words), ""]


def to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    example = False
    for i, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            parts = re.split(r"(`+[^`]*`+)", LINK.sub(r"`\1 <\2>`__", line))
            lines[i] = "".join(p if p.startswith("`") else p.replace("|", r"\|") for p in parts)


def own_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any) -> Any:
    """Without the fields of a base of transformers', of which there are a hundred, and without what nobody calls."""
    if what != "class":
        return None
    if issubclass(obj, _BaseAutoModelClass) or obj.__init__ is object.__init__:
        return "", None
    if issubclass(obj, Method):
        return _signature(obj, obj.option_names(), ())
    if issubclass(obj, (PreTrainedConfig, TrainingArguments)):
        return _signature(obj, inspect.get_annotations(obj), ("**kwargs",))
    return None


def _signature(cls: type, names: Iterable[str], rest: Iterable[str]) -> tuple[str, None]:
    known = inspect.signature(cls).parameters
    return f"({', '.join([*(f'{n}={known[n].default!r}' for n in names if n in known), *rest])})", None


def by_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """`resize` and `LearngeneError` name their entries wherever they stand, unless two classes have that name."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.domains["py"], node["reftarget"]
    found = [n for n in domain.objects if n == f"hf_learngene.{target}"]
    if not found and target[:1].isupper():
        found = [n for n, o in domain.objects.items() if n.endswith(f".{target}") and not o.aliased]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, contnode)


def setup(app: Any) -> dict[str, bool]:
    app.add_role("code-or-link", code)
    app.connect("autodoc-process-docstring", facts)
    app.connect("autodoc-process-docstring", to_rst)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("missing-reference", by_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
