"""TextPruner: the parts that a loss hangs on least go, in 16 rounds, scored anew in each.

Needs labels. A part's score is the size of the loss's gradient by its mask, batch by batch, which is what the sum of weight times
gradient over its columns of the output matrix comes to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rival_rules.masks import Batches, Masked, by_labels, highest


ROUNDS = 16


def prune(masked: Masked, batches: Batches, share: float, even: bool) -> str:
    """Heads and ffn units in the same share; `even`, in every layer, else over all."""
    heads, units = masked.sites[0].parts, masked.sites[1].parts
    room = masked.budget(share)
    wanted = [round(len(masked.layers) * heads * share)]
    wanted.append((room - wanted[0] * masked.sites[0].cost) // masked.sites[1].cost)
    for step in range(1, ROUNDS + 1):
        scores: list[Tensor] = [torch.zeros(s.parts) for s in masked.sites]
        for grads in by_labels(masked, batches):
            for score, grad, on in zip(scores, grads, masked.kept(), strict=True):
                score += grad.abs() * on
        masks: list[Tensor] = []
        pairs = []
        for kind, many in enumerate((heads, units)):
            whole = len(masked.layers) * many
            left = whole - (whole - wanted[kind]) * step // ROUNDS
            if even:
                each = [
                    left // len(masked.layers) + (n < left % len(masked.layers)) for n in range(len(masked.layers))
                ]
                pairs.append([highest([s], max(1, e))[0] for s, e in zip(scores[kind::2], each, strict=True)])
            else:
                pairs.append(highest(scores[kind::2], left, at_least=1))
        for pair in zip(*pairs, strict=True):
            masks += pair
        masked.keep(masks)
    return "the same number in every layer" if even else "over all layers"
