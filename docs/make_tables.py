"""Writes the tables of methods and learngenes, from what is registered, into README.md and docs/methods/index.md.

python docs/make_tables.py              # or: make tables
"""

from __future__ import annotations

import sys
from pathlib import Path


DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]

from registered_tables import PAGES, filled  # noqa: E402


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fresh = filled(text, page)
        if fresh != text:
            page.write_text(fresh, encoding="utf-8")
            print(f"wrote {page.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
