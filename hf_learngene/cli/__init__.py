"""The command line, `hf-learngene`."""

from hf_learngene.cli import compare, learngenes, publish  # noqa: F401  add their commands to the app
from hf_learngene.cli.app import app, main


__all__ = ["app", "main"]
