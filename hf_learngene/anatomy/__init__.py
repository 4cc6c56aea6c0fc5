"""What is each tensor? The named axes, the layer, the role and the ties of every parameter of an encoder."""

from hf_learngene.anatomy.infer import anatomy_like, anatomy_of
from hf_learngene.anatomy.registry import register_anatomy
from hf_learngene.anatomy.types import Dim, NormInfo, TensorInfo
from hf_learngene.anatomy.whole import Anatomy


__all__ = ["Anatomy", "Dim", "NormInfo", "TensorInfo", "anatomy_like", "anatomy_of", "register_anatomy"]
