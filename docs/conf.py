"""How `make docs` builds the pages. Nothing is fetched: not by the build, and not by the browser of who reads them."""

from __future__ import annotations

import sys
from pathlib import Path


HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

from hf_learngene._version import __version__  # noqa: E402


project = "hf_learngene"
author = "The hf_learngene authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.githubpages",
    "docstrings",
    "registered_tables",
    "links",
    "mathml",
    "registered",
]
exclude_patterns = ["_build"]
smartquotes_action = "D"  # dashes alone: quotes in results are Python's

# What GitHub renders, and no more: the pages are read there too.
myst_enable_extensions = ["alert", "dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4

# Types stand in `Args`, as transformers writes them; in the signature they would stand twice.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = napoleon_attr_annotations = False
maximum_signature_line_length = 200  # from there on a line for each argument
toc_object_entries_show_parents = "hide"
default_role = "code-or-link"
html_math_renderer = "mathml"


def _colours(brand: str) -> dict[str, str]:
    quiet = {"color-api-pre-name": "var(--color-foreground-muted)", "api-font-size": "0.875rem"}
    return {"color-brand-primary": brand, "color-brand-content": brand, "color-api-name": brand, **quiet}


html_theme = "furo"
pygments_dark_style = "github-dark"
highlight_language = "none"  # of blocks that name none: what a program prints
html_title = f"hf_learngene {release}"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = html_copy_source = html_show_copyright = False
html_theme_options = {
    "light_css_variables": _colours("#0b6e5f"),
    "dark_css_variables": _colours("#4fd1b5"),
}
