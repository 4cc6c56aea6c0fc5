"""Methods side by side: the same sizes, data, steps and seeds, and what each start was worth."""

from hf_learngene.comparing.result import Comparison, Row
from hf_learngene.comparing.run import compare


__all__ = ["Comparison", "Row", "compare"]
