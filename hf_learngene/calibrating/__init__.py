"""What a model does on a few hundred unlabelled examples: what of it is to stay, and how the rest is refitted around it."""

from hf_learngene.calibrating.data import Examples, check_given
from hf_learngene.calibrating.deciding import Deciding, kept_layers
from hf_learngene.calibrating.fitting import Fitted, Refit
from hf_learngene.calibrating.ranking import scored


__all__ = ["Deciding", "Examples", "Fitted", "Refit", "check_given", "kept_layers", "scored"]
