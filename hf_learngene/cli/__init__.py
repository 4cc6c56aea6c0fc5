"""The command line, `hf-learngene`."""

from hf_learngene.cli import resize, resize_adapter, distill, verify, compare, learngenes, publish, methods, demo  # noqa: F401, I001  in the order of --help
from hf_learngene.cli.app import app, main


__all__ = ["app", "main"]
