"""Formulas as MathML, which browsers show by themselves: MathJax would be fetched by every reader."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number


logger = logging.getLogger(__name__)


def converted(node: nodes.Element, **options: bool) -> str:
    try:
        return tex2mathml(node.astext(), **options)
    except MathError as error:
        logger.warning("this formula has no MathML: %s", error, location=node)
        return ""


def inline(self: Any, node: nodes.Element) -> None:
    self.body.append(converted(node))
    raise nodes.SkipNode


def block(self: Any, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(converted(node, as_block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
