"""Made-up calibration examples, for models whose owner has no data at hand."""

from hf_learngene.calibration.synthetic.count import examples_needed
from hf_learngene.calibration.synthetic.examples import synthetic_examples
from hf_learngene.calibration.synthetic.limits import can_synthesise, why_not


__all__ = ["can_synthesise", "examples_needed", "synthetic_examples", "why_not"]
