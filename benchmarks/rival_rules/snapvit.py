"""SnapViT (WalterSimoncini/SnapViT): squared gradients of a loss between views of an image, times factors that xNES finds.

Needs no labels, but views: images only. There is a factor for each layer's units and for each head, searched once for all sizes.
The output matrices are then corrected, one after the other: here by least squares on all columns that stay, where the paper's
code (SparseGPT's) corrects only those to the right of each that goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cosine_similarity, grid_sample, log_softmax, normalize, softmax

from rival_rules.masks import Batches, Masked, Stream, highest


LARGE, SMALL = (
    (2, (0.25, 1.0)),
    (10, (0.05, 0.25)),
)  # views of an image: how many, and the share of it that they show
TRIED = (
    (0.15, 0.0),
    (0.35, 0.2),
    (0.55, 0.4),
    (0.65, 0.5),
)  # shares of units and heads that go, while factors are searched
EVALUATIONS, COMPONENTS, DAMPING = 50, 192, 0.01
LEAST_UNITS, LEAST_HEADS = 0.05, 0.2  # of a layer stay


def prune(masked: Masked, batches: Batches, share: float, scores: list[Tensor], more_heads: float) -> str:
    """Keeps `share` of the heads and `more_heads` besides, and what units there is room for."""
    site, layers = masked.sites, len(masked.layers)
    heads = round(layers * site[0].parts * min(1.0, share + more_heads))
    units = (masked.budget(share) - heads * site[0].cost) // site[1].cost
    masked.keep(_masks(masked, scores, heads, units))
    stream = Stream(masked, batches)
    for place in range(len(site)):
        _correct(stream, place)
        if place % 2:
            stream.advance()
    return f"{heads} of {layers * site[0].parts} heads"


def scores(source: Masked, batches: Batches, seed: int, count: int = 128) -> list[Tensor]:
    """A part's score at every site. `count`: the examples that factors are judged by."""
    raw = _squared_gradients(source, batches, torch.Generator().manual_seed(seed))
    images = torch.cat([b["pixel_values"] for b in batches])[:count]
    right = _features(source, images)
    mean, axes = right.mean(0), torch.linalg.svd(right - right.mean(0), full_matrices=False).Vh[:COMPONENTS].T
    layers, heads, units = len(source.layers), source.sites[0].parts, source.sites[1].parts

    def scaled(factors: Tensor) -> list[Tensor]:
        by_layer, by_head = factors[:layers].abs(), factors[layers:].abs().view(layers, heads)
        return [s * (by_head[n // 2] if n % 2 == 0 else by_layer[n // 2]) for n, s in enumerate(raw)]

    def loss(factors: Tensor) -> float:
        total = 0.0
        for units_go, heads_go in TRIED:
            kept = (layers * heads - int(heads_go * layers * heads), layers * units - int(units_go * layers * units))
            source.keep(_masks(source, scaled(factors), *kept))
            found = _features(source, images)
            total += 1 - float(cosine_similarity((found - mean) @ axes, (right - mean) @ axes).mean())
        source.keep([torch.ones(s.parts) for s in source.sites])
        return total / len(TRIED)

    start = torch.linspace(1.2, 0.8, layers)
    return scaled(_xnes(loss, torch.cat([start, start.repeat_interleave(heads)]), seed))


def _masks(masked: Masked, scores: list[Tensor], heads: int, units: int) -> list[Tensor]:
    site = masked.sites
    least = max(1, int(LEAST_HEADS * site[0].parts)), int(LEAST_UNITS * site[1].parts)
    pairs = zip(highest(scores[::2], heads, least[0]), highest(scores[1::2], units, least[1]), strict=True)
    return [mask for pair in pairs for mask in pair]


def _features(masked: Masked, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([masked.model.base_model(pixel_values=b).last_hidden_state[:, 0] for b in images.split(64)])


def _squared_gradients(source: Masked, batches: Batches, generator: torch.Generator) -> list[Tensor]:
    watched = [s.into[-1].weight for s in source.sites]  # of values for heads, of fc1 for units
    for weight in watched:
        weight.requires_grad_(True)
        weight.grad = None
    for batch in batches:
        for images in batch["pixel_values"].split(16):
            views = torch.cat([_views(images, *kind, generator) for kind in (LARGE, SMALL)])
            many = len(views) // len(images)
            states = source.model.base_model(pixel_values=views).last_hidden_state[:, 0]
            states = normalize(states, dim=-1).view(many, len(images), -1)
            answers, said = softmax(states[: LARGE[0]].detach(), -1), log_softmax(states, -1)
            pairs = [-(answers[i] * said[j]).sum(-1) for i in range(LARGE[0]) for j in range(many) if i != j]
            torch.stack(pairs).sum(0).mean().backward()
    found = [w.grad.square().mean(1).view(-1, s.width).mean(1) for w, s in zip(watched, source.sites, strict=True)]
    for weight in watched:
        weight.requires_grad_(False)
    return found


def _views(images: Tensor, count: int, area: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Random cuts of images, enlarged to their size: views × images, flat."""
    images = images.repeat(count, 1, 1, 1)
    size = torch.empty(len(images)).uniform_(*area, generator=generator)
    shape = torch.empty(len(images)).uniform_(math.log(3 / 4), math.log(4 / 3), generator=generator).exp()
    sides = torch.stack([(size * shape).sqrt(), (size / shape).sqrt()], 1).clamp(max=1)
    places = (2 * torch.rand(len(images), 2, generator=generator) - 1) * (1 - sides)
    grid = affine_grid(
        torch.cat([torch.diag_embed(sides), places[..., None]], 2), list(images.shape), align_corners=False
    )
    return grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _xnes(loss: Callable[[Tensor], float], start: Tensor, seed: int) -> Tensor:
    """Exponential natural evolution (Glasmachers et al. 2010): the best of all points tried, with its usual rates."""
    generator = torch.Generator().manual_seed(seed)
    many, size = len(start), 4 + int(3 * math.log(len(start)))
    rate = (9 + 3 * math.log(many)) / (5 * many * math.sqrt(many))
    order = torch.arange(1, size + 1)
    weights = (math.log(size / 2 + 1) - order.log()).clamp(min=0)
    weights = weights / weights.sum() - 1 / size
    mean, shape = start.clone(), torch.eye(many)
    best, least, left = start, loss(start), EVALUATIONS - 1
    while left >= size:
        left -= size
        steps = torch.randn(size, many, generator=generator)
        points = mean + steps @ shape.T
        values = torch.tensor([loss(p) for p in points])
        steps = steps[values.argsort()]
        if float(values.min()) < least:
            best, least = points[values.argmin()], float(values.min())
        mean = mean + shape @ (weights @ steps)
        push = (weights[:, None] * steps).T @ steps - weights.sum() * torch.eye(many)
        shape = shape @ torch.linalg.matrix_exp(rate / 2 * push)
    return best


@torch.no_grad()
def _correct(stream: Stream, place: int) -> None:
    """The output matrix on what stays, for what it gives on all, from the pruned model's own inputs."""
    site, mask = stream.masked.sites[place], stream.masked.masks[place]
    keep = mask.nonzero().flatten()
    if len(keep) == len(mask):
        return
    stream.masked.masks[place] = torch.ones_like(mask)
    x = torch.cat([x for x, _ in stream.at(place)]).double()
    stream.masked.masks[place] = mask
    gram = x.T @ x
    inside = gram[keep][:, keep] + DAMPING * gram.diagonal().mean() * torch.eye(len(keep), dtype=gram.dtype)
    wanted = (
        gram[keep] @ site.out.weight.double().T
        + DAMPING * gram.diagonal().mean() * site.out.weight[:, keep].double().T
    )
    site.out.weight[:, keep] = torch.linalg.solve(inside, wanted).T.float()
