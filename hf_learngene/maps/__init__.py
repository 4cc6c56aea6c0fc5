"""How does one axis of one size become another size, and how is that applied to a state dict?

Knows tensors, not models: a `Recipe` says from which source tensors a target tensor comes and by which steps.
"""

from hf_learngene.maps.depth import Layer, LayerMap
from hf_learngene.maps.recipe import Recipe, apply, compute_dtype
from hf_learngene.maps.steps import Fill, Matrix, Scale, Split, Step, Take, Weigh


__all__ = [
    "Fill",
    "Layer",
    "LayerMap",
    "Matrix",
    "Recipe",
    "Scale",
    "Split",
    "Step",
    "Take",
    "Weigh",
    "apply",
    "compute_dtype",
]
