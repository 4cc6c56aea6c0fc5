"""Adapters of peft that follow their base to another size: read from a `PeftModel`, carried, attached to the resized base.

Knows recipes, not plans. Importing it imports peft, which takes seconds.
"""

from hf_learngene.adapters.attaching import attach
from hf_learngene.adapters.carrying import carry
from hf_learngene.adapters.reading import Adapter, read_adapter


__all__ = ["Adapter", "attach", "carry", "read_adapter"]
