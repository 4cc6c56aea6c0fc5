"""`.. registered:: methods` and `.. registered:: learngenes`: an entry for each class of a registry; none is forgotten."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from hf_learngene.learngenes import registered_learngenes
from hf_learngene.methods import METHODS


def entries(registry: str) -> list[str]:
    """The dotted names of a registry's classes, the shortest under which each can be imported."""
    classes = {"methods": METHODS, "learngenes": registered_learngenes()}[registry]
    package = f"hf_learngene.{registry}"
    public = vars(import_module(package))
    return [
        f"{package if cls.__name__ in public else cls.__module__}.{cls.__name__}" for _, cls in sorted(classes.items())
    ]


class Registered(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = "\n\n".join(f".. autoclass:: {name}" for name in entries(self.arguments[0]))
        return self.parse_text_to_nodes(text)


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("registered", Registered)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
