"""How does one axis of one size become another size, and how is that applied to a state dict?

Knows tensors, not models: a `TensorRecipe` says from which source tensors a target tensor comes and by which ops.
"""

from hf_learngene.maps.layer_map import Layer, LayerMap
from hf_learngene.maps.ops import Fill, Matrix, Op, Scale, Split, Take, Weigh
from hf_learngene.maps.recipe import TensorRecipe, apply, compute_dtype


__all__ = [
    "Fill",
    "Layer",
    "LayerMap",
    "Matrix",
    "Op",
    "Scale",
    "Split",
    "Take",
    "TensorRecipe",
    "Weigh",
    "apply",
    "compute_dtype",
]
