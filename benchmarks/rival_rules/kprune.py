"""K-prune (2308.03449): site by site, the parts go that outputs and answers hang on least, and the output matrix is solved anew.

Needs no labels: the answers are the source's own. Scores, masks and budget are made again behind every site, and the least
squares have no ridge, as there. The budget is one of parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from rival_rules.masks import Batches, Masked, Stream


TEMPERATURE = 2.0
ANSWERS, OUTPUTS, HEADS = 1.0, 2.5e-4, 64.0  # weights of the two kinds of knowledge, and of heads against units


def prune(
    masked: Masked, batches: Batches, share: float, source: Masked, outputs: float = OUTPUTS, heads: float = HEADS
) -> str:
    room = masked.budget(share)
    ours, theirs = Stream(masked, batches), Stream(source, batches)
    answers = [log_softmax(theirs.masked.logits(theirs.run(n, 0, len(source.layers))) / TEMPERATURE, -1)
               for n in range(len(batches))]  # fmt: skip
    answers = [a.detach() for a in answers]
    for place, site in enumerate(masked.sites):
        scores = _scores(ours, answers, place, outputs, heads)
        keep = _kept(masked, scores, place, room)
        room -= int(keep.sum()) * site.cost
        masked.masks[place] = keep.float().repeat_interleave(site.width)
        if keep.any():
            _refit(ours, theirs, place, keep.repeat_interleave(site.width))
        if place % 2:
            ours.advance()
            theirs.advance()
    return ""


def _scores(ours: Stream, answers: list[Tensor], place: int, outputs: float, heads: float) -> list[Tensor]:
    """What every part from a site on knows, for a parameter."""
    masked = ours.masked
    sites, masks = masked.sites[place:], masked.masks[place:]
    energy = [torch.zeros_like(m) for m in masks]
    slopes = [torch.zeros_like(m) for m in masks]
    seen: dict[int, Tensor] = {}
    handles = [
        s.out.register_forward_pre_hook(lambda _, g, n=n: seen.update({n: g[0].detach()})) for n, s in enumerate(sites)
    ]
    masked.watch(True, place)
    for number, answer in enumerate(answers):
        logits = masked.logits(ours.run(number, ours.layer, len(masked.layers)))
        loss = (
            kl_div(log_softmax(logits / TEMPERATURE, -1), answer, reduction="batchmean", log_target=True)
            * TEMPERATURE**2
        )
        for n, grad in enumerate(torch.autograd.grad(loss, masks)):
            slopes[n] += grad.square() / 2
        for n, site in enumerate(sites):
            energy[n] += seen[n][ours.real[number]].square().sum(0) * site.out.weight.square().mean(0)
    masked.watch(False)
    for handle in handles:
        handle.remove()
    examples, tokens = sum(len(a) for a in answers), sum(int(r.sum()) for r in ours.real)
    found = []
    for n, site in enumerate(sites):
        score = outputs * energy[n] / tokens + ANSWERS * slopes[n] / examples
        score = score.view(-1, site.width).mean(1) * (heads if site.width > 1 else 1.0)
        found.append(score / site.cost)
    return found


def _kept(masked: Masked, scores: list[Tensor], place: int, room: int) -> Tensor:
    """The parts of a site that stay where the best of all remaining ones fill the room."""
    costs = torch.cat([torch.full_like(s, masked.sites[place + n].cost) for n, s in enumerate(scores)]).double()
    order = torch.cat(scores).argsort(descending=True)
    on = torch.zeros(len(order), dtype=torch.bool)
    on[order] = costs[order].cumsum(0) <= room
    return on[: len(scores[0])]


@torch.no_grad()
def _refit(ours: Stream, theirs: Stream, place: int, columns: Tensor) -> None:
    site, target = ours.masked.sites[place], theirs.masked.sites[place]
    gram, cross = 0, 0
    for (x, stream), (x2, stream2) in zip(ours.at(place), theirs.at(place), strict=True):
        x = x[:, columns].double()
        gram = gram + x.T @ x
        cross = cross + x.T @ (target.out(x2) + stream2 - site.out.bias - stream).double()
    site.out.weight[:, columns] = torch.linalg.lstsq(gram, cross, driver="gelsd").solution.T.float()
