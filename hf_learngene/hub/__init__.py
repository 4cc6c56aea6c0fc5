"""Checkpoints in and out: loading, saving, provenance, model cards, and the way to the Hub."""

from hf_learngene.hub.card import model_card
from hf_learngene.hub.card_parts import Result
from hf_learngene.hub.push import push_folder, push_resized
from hf_learngene.hub.save import save_resized


__all__ = ["Result", "model_card", "push_folder", "push_resized", "save_resized"]
