"""Kwon et al. 2022 (2204.09656): masks by Fisher information, rearranged by its blocks, tuned by least squares.

Needs labels. The budget is one of parameters here, where the paper's is one of operations or of time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rival_rules.masks import Batches, Masked, Stream, by_labels, highest


LIMIT = 10.0  # a scale beyond it ends the tuning


def prune(masked: Masked, batches: Batches, share: float, source: Masked) -> str:
    grads = by_labels(source, batches)
    by_site = [torch.stack(one) for one in zip(*grads, strict=True)]  # batches × parts
    fisher = [g.square().sum(0) for g in by_site]
    source.keep(_search(source, fisher, share**0.5))  # what is tuned to is pruned half as far
    masks = _search(masked, fisher, share)
    masked.keep([_rearranged(m, g) for m, g in zip(masks, by_site, strict=True)])
    return f"{_tune(masked, source, batches)} of {len(masked.sites)} sites tuned"


def _search(masked: Masked, fisher: list[Tensor], share: float) -> list[Tensor]:
    """Of every number of heads with the units that it leaves room for, those of the most information."""
    room, heads, units = masked.budget(share), fisher[::2], fisher[1::2]
    head, unit = (masked.sites[n].cost for n in (0, 1))
    sums = [torch.cat([torch.zeros(1), torch.cat(f).sort(descending=True).values.cumsum(0)]) for f in (heads, units)]
    splits = [
        (n, min((room - n * head) // unit, len(sums[1]) - 1)) for n in range(1, len(sums[0])) if n * head <= room
    ]
    n, m = max(splits, key=lambda one: float(sums[0][one[0]] + sums[1][one[1]]))
    pairs = zip(highest(heads, n), highest(units, m), strict=True)
    return [mask for pair in pairs for mask in pair]


def _rearranged(mask: Tensor, grads: Tensor) -> Tensor:
    """The same number of parts, chosen one by one so that the gradients of what goes cancel best."""
    going = int((mask == 0).sum())
    if not 0 < going < len(mask):
        return mask
    order = grads.square().sum(0).argsort().tolist()
    gone, total = order[:going], grads[:, order[:going]].sum(1)
    for part in order[going:]:
        gone.append(part)
        total = total + grads[:, part]
        back = int((total[:, None] - grads[:, gone]).square().sum(0).argmin())
        total = total - grads[:, gone[back]]
        del gone[back]
    found = torch.ones_like(mask)
    found[gone] = 0
    return found


def _tune(masked: Masked, source: Masked, batches: Batches) -> int:
    """Scales the parts that stay, site by site, so that the stream is the less pruned model's; returns how many sites were."""
    ours, theirs, done = Stream(masked, batches), Stream(source, batches), 0
    for place, site in enumerate(masked.sites):
        mask = masked.masks[place].view(-1, site.width)[:, 0]
        on = mask.nonzero().flatten()
        if place and len(on):
            last = place == len(masked.sites) - 1
            scales = _scales(ours, theirs, place, on, first_token=last)
            if scales.abs().max() > LIMIT:
                break
            new = mask.clone()
            new[on] *= scales
            masked.masks[place] = new.repeat_interleave(site.width)
            done += 1
        if place % 2:
            ours.advance()
            theirs.advance()
    return done


def _scales(ours: Stream, theirs: Stream, place: int, on: Tensor, first_token: bool) -> Tensor:
    site, target = ours.masked.sites[place], theirs.masked.sites[place]
    constant = site.width > 1  # heads have a free constant besides, which is then left out
    many = len(on) + constant
    gram, cross = torch.zeros(many, many, dtype=torch.float64), torch.zeros(many, dtype=torch.float64)
    weights = site.out.weight.T.reshape(site.parts, site.width, -1)[on]
    for (x, stream), (x2, stream2) in zip(ours.at(place, first_token), theirs.at(place, first_token), strict=True):
        wanted = target.out(x2) + stream2 - site.out.bias - stream
        x = x.view(len(x), site.parts, site.width)[:, on]
        if site.width == 1:
            x = x[:, :, 0]
            gram += (weights[:, 0] @ weights[:, 0].T * (x.T @ x)).double()
            cross += (x * (wanted @ weights[:, 0].T)).sum(0).double()
        else:
            made = torch.einsum("tpw,pwo->pto", x, weights).flatten(1)
            made = torch.cat([made, torch.ones_like(made[:1])])
            gram += (made @ made.T).double()
            cross += (made @ wanted.flatten()).double()
    # changes from 1, by least squares on the normal equations with a damping of 1, as LSMR is asked for there
    cross -= gram.sum(1)
    values, vectors = torch.linalg.eigh(gram)
    change = vectors @ ((values / (values.square() + 1)) * (vectors.T @ cross))
    return 1 + change.float()[: len(on)]
