"""What a model does on a few hundred unlabelled examples: what of it is to stay, and how the rest is refitted around it."""

from hf_learngene.pruning.criteria import scored
from hf_learngene.pruning.examples import Examples, check_given
from hf_learngene.pruning.refit import Fitted, Refit
from hf_learngene.pruning.select import Deciding, kept_layers


__all__ = ["Deciding", "Examples", "Fitted", "Refit", "check_given", "kept_layers", "scored"]
