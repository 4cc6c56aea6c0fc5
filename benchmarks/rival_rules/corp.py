"""CORP (2602.05243): what goes is written as an affine function of what stays, by ridge regression, and folded into the weights.

Needs no labels, and looks at the source once. Units go by the energy of what they add; dimensions of queries and keys by that of
what they add to the attention's logits, and their logits are made up for by a bilinear map. Written from the paper's abstract and
introduction, since there is no code: the ranking, and that values go the same way where `values` is set, are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rival_rules.masks import Batches, Masked, Stream


RIDGE = 1e-3  # times the mean of the diagonal


def prune(masked: Masked, batches: Batches, share: float, source: Masked, values: bool) -> str:
    sites, width = source.sites, source.model.config.hidden_size
    head, heads, units = sites[0].width, sites[0].parts, sites[1].parts
    layers = len(source.layers)
    column, pair = 2 * width + 1, 2 * (width + 1)  # parameters of a unit or a value; of a query and its key
    per_head = pair + (column if values else 0)
    fixed = 0 if values else heads * head * column
    room = masked.budget(share) / layers - fixed
    part = room / (heads * head * per_head + units * column)
    if part < 1 / head:
        raise ValueError(f"{share:.0%} is out of reach without pruning values")
    dims = max(1, round(part * head))
    left = min(units, int((room - heads * dims * per_head) // column))
    stream = Stream(source, batches)
    for layer in range(layers):
        _logits(masked, stream, 2 * layer, dims)
        if values:
            _values(masked, stream, 2 * layer, dims)
        _units(masked, stream, 2 * layer + 1, left)
        stream.advance()
    masked.saved += layers * heads * (head - dims) * pair
    if values:  # counted by dimensions, since no head is gone
        masked.saved += layers * heads * (head - dims) * column
    return f"{dims} of {head} dimensions, {left} units" + (", values too" if values else "")


@torch.no_grad()
def _units(masked: Masked, stream: Stream, place: int, left: int) -> None:
    x = torch.cat([x for x, _ in stream.at(place)]).double()
    out = masked.sites[place].out
    keep = (x.var(0) * out.weight.double().square().sum(0)).topk(left).indices
    masked.masks[place] = _fold(out, x, keep)


@torch.no_grad()
def _values(masked: Masked, stream: Stream, place: int, dims: int) -> None:
    site = masked.sites[place]
    x = torch.cat([x for x, _ in stream.at(place)]).double()
    energy = (x.var(0) * site.out.weight.double().square().sum(0)).view(site.parts, site.width)
    keep = energy.topk(dims, 1).indices + site.width * torch.arange(site.parts)[:, None]
    masked.masks[place] = _fold(site.out, x, keep.flatten())


def _fold(out: nn.Linear, x: Tensor, keep: Tensor) -> Tensor:
    """Adds to the columns that stay, and to the bias, what they say of those that go; returns the mask."""
    mask = torch.zeros(x.shape[1])
    mask[keep] = 1
    going = (mask == 0).nonzero().flatten()
    mean = x.mean(0)
    gram = (x - mean).T @ (x - mean)
    inside = gram[keep][:, keep]
    inside += RIDGE * inside.diagonal().mean() * torch.eye(len(keep), dtype=inside.dtype)
    told = torch.linalg.solve(inside, gram[keep][:, going])  # kept × going
    weight = out.weight.double()
    out.bias += (weight[:, going] @ (mean[going] - told.T @ mean[keep])).float()
    out.weight[:, keep] += (weight[:, going] @ told.T).float()
    return mask


@torch.no_grad()
def _logits(masked: Masked, stream: Stream, place: int, dims: int) -> None:
    """Dimensions of queries and keys go; for those that stay, (1 + M) in between makes up for their logits."""
    site = masked.sites[place]
    queries, keys = _seen(stream, place)
    for head in range(site.parts):
        rows = slice(head * site.width, (head + 1) * site.width)
        q = [one[:, rows].double() for one in queries]
        k = [one[:, rows].double() for one in keys]
        qq, kk = (torch.stack([o.T @ o for o in one]) for one in (q, k))  # examples × width × width
        energy = (qq.diagonal(dim1=1, dim2=2) * kk.diagonal(dim1=1, dim2=2)).sum(0)
        keep, gone = energy.topk(dims).indices, energy.topk(site.width - dims, largest=False).indices
        inner_q, inner_k = (one[:, keep][:, :, keep].flatten(1) for one in (qq, kk))
        gram = (inner_q.T @ inner_k).view(dims, dims, dims, dims).permute(0, 2, 1, 3).reshape(dims**2, dims**2)
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        cross = (qq[:, keep][:, :, gone] @ kk[:, gone][:, :, keep]).sum(0)
        between = torch.eye(dims, dtype=torch.float64) + torch.linalg.solve(gram, cross.flatten()).view(dims, dims)
        query, key = site.into[0], site.into[1]
        inside = torch.arange(rows.start, rows.stop)
        weight, bias = query.weight[inside[keep]].double(), query.bias[inside[keep]].double()
        query.weight[inside[keep]], query.bias[inside[keep]] = (between.T @ weight).float(), (between.T @ bias).float()
        for one in (query, key):
            one.weight[inside[gone]], one.bias[inside[gone]] = 0.0, 0.0


def _seen(stream: Stream, place: int) -> tuple[list[Tensor], list[Tensor]]:
    """Queries and keys of every example by itself."""
    site, seen = stream.masked.sites[place], dict[str, Tensor]()
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    names = ("q", "k")
    handles = [
        m.register_forward_hook(lambda _, given, out, name=name: seen.update({name: out}))
        for name, m in zip(names, site.into, strict=False)
    ]
    for number, real in enumerate(stream.real):
        stream.run(number, stream.layer, stream.layer + 1)
        for rows, name in zip(found, names, strict=True):
            rows += [one[on] for one, on in zip(seen[name], real, strict=True)]
    for handle in handles:
        handle.remove()
    return found
