"""The command line, `hf-learngene`."""

from hf_learngene.cli.app import app, main


__all__ = ["app", "main"]
