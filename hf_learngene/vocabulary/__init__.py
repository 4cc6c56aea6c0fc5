"""Which tokens are kept: their rows, their ids in the config, and a tokenizer that knows no others."""

from hf_learngene.vocabulary.rows import (
    KeptTokens,
    Vocabulary,
    check_padding,
    named_tokens,
    read_vocabulary,
    renumbered,
)
from hf_learngene.vocabulary.trim_tokenizer import trim_tokenizer


__all__ = [
    "KeptTokens",
    "Vocabulary",
    "check_padding",
    "named_tokens",
    "read_vocabulary",
    "renumbered",
    "trim_tokenizer",
]
