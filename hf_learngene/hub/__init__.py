"""Checkpoints in and out: loading, saving, provenance, model cards, and the way to the Hub."""
