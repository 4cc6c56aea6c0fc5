"""The command line, `hf-learngene`."""

from hf_learngene.cli import learngenes  # noqa: F401  adds its commands to the app
from hf_learngene.cli.app import app, main


__all__ = ["app", "main"]
