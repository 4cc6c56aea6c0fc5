"""Which logits count: those of the examples, or of the masked tokens (DistilBERT, arXiv 1910.01108)."""

from __future__ import annotations

import torch
from torch import Tensor


def at_items(logits: Tensor, labels: Tensor | None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(logits of the items, example that each belongs to).

    With one row of logits for each example, the example is the item. With one for each token, the items are the tokens that
    have a label (the masked ones of a masked-LM batch); without labels, all that are no padding.

    Args:
        logits: (examples, classes) or (examples, tokens, classes).
        labels: (examples,) or (examples, tokens), -100 where there is none.
        mask: (examples, tokens), 0 for padding.

    Returns:
        (items, classes) and (items,) int64.

    Example:
        >>> rows, owner = at_items(torch.zeros(2, 3, 5), torch.tensor([[-100, 1, -100], [2, 2, -100]]))
        >>> rows.shape, owner.tolist()
        (torch.Size([3, 5]), [0, 1, 1])
    """
    examples = torch.arange(len(logits), device=logits.device)
    if logits.dim() == 2:
        if labels is not None and labels.dim() == 1 and not labels.is_floating_point():
            kept = labels.ne(-100)
            return logits[kept], examples[kept]
        return logits, examples
    if labels is not None:
        kept = labels.ne(-100)
    elif mask is not None and mask.shape == logits.shape[:2]:
        kept = mask.bool()
    else:
        kept = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    return logits[kept], examples[:, None].expand(kept.shape)[kept]
