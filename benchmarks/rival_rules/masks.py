"""A model some of whose heads and ffn units are switched off: what the rules of the papers have in common.

A mask has an entry for each input of a layer's two output matrices (`o_proj`, `fc2`). What is switched off is counted as gone,
with the rows of queries, keys, values or `fc1` that made it, though it is still computed here: the outcome is the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


Batches = list[dict[str, Tensor]]


@dataclass
class Site:
    """An output matrix, and the parts that its inputs fall into: heads, or single ffn units."""

    layer: int
    out: nn.Linear
    into: list[nn.Linear]
    added_to: nn.Module  # its input is the stream that the output is added to
    width: int  # inputs of a part

    @property
    def parts(self) -> int:
        return self.out.in_features // self.width

    @property
    def cost(self) -> int:
        """Parameters that go with a part."""
        return self.width * (sum(m.in_features + 1 for m in self.into) + self.out.out_features)


class Masked:
    """A copy of a ViT or BERT classifier with masks at its sites, attention and ffn of each layer in turn."""

    def __init__(self, source: Any) -> None:
        self.model = copy.deepcopy(source).eval().requires_grad_(False)
        base, self.sites = self.model.base_model, list[Site]()
        self.is_bert = hasattr(base, "encoder")
        self.layers = base.encoder.layer if self.is_bert else base.layers
        head = source.config.hidden_size // source.config.num_attention_heads
        for number, layer in enumerate(self.layers):
            a = layer.attention
            if self.is_bert:
                inner = a.self
                self.sites += [
                    Site(number, a.output.dense, [inner.query, inner.key, inner.value], layer, head),
                    Site(number, layer.output.dense, [layer.intermediate.dense], layer.intermediate, 1),
                ]
            else:
                self.sites += [
                    Site(number, a.o_proj, [a.q_proj, a.k_proj, a.v_proj], layer, head),
                    Site(number, layer.mlp.fc2, [layer.mlp.fc1], layer.layernorm_after, 1),
                ]
        self.masks = [torch.ones(site.out.in_features) for site in self.sites]
        self.saved = 0  # parameters that are gone besides those of masked parts
        for place, site in enumerate(self.sites):
            site.out.register_forward_pre_hook(lambda _, given, place=place: (given[0] * self.masks[place],))
        self.whole = sum(p.numel() for p in self.layers.parameters())

    def keep(self, masks: list[Tensor]) -> None:
        """Keeps the parts for which a mask of parts is not 0."""
        self.masks = [m.float().repeat_interleave(s.width) for m, s in zip(masks, self.sites, strict=True)]

    def kept(self) -> list[Tensor]:
        """For each site, which parts are on."""
        return [m.view(-1, s.width).ne(0).any(1) for m, s in zip(self.masks, self.sites, strict=True)]

    def encoder(self) -> int:
        gone = sum(int((~on).sum()) * s.cost for on, s in zip(self.kept(), self.sites, strict=True))
        return self.whole - gone - self.saved

    def budget(self, share: float) -> int:
        """Parameters that parts may have in all, for layers of that share."""
        return round(share * self.whole) - (self.whole - sum(s.parts * s.cost for s in self.sites))

    def logits(self, states: Tensor) -> Tensor:
        """What the classifier says of the last layer's output."""
        base = self.model.base_model
        pooled = base.pooler(states) if self.is_bert else base.layernorm(states)[:, 0]
        return self.model.classifier(pooled)

    def watch(self, on: bool, first: int = 0) -> None:
        for number, mask in enumerate(self.masks):
            mask.requires_grad_(on and number >= first)


class Stream:
    """What goes into a layer, batch by batch, with the layer's other arguments."""

    def __init__(self, masked: Masked, batches: Batches) -> None:
        self.masked, self.layer = masked, 0
        self.states, self.others, self.real = list[Tensor](), list[Any](), list[Tensor]()

        def stop(_: nn.Module, given: Any, named: Any) -> None:
            self.states.append(given[0])
            self.others.append((given[1:], named))
            raise _StopError

        handle = masked.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
        for batch in batches:
            try:
                with torch.no_grad():
                    masked.model(**{k: v for k, v in batch.items() if k != "labels"})
            except _StopError:
                pass
            shape = self.states[-1].shape[:2]
            self.real.append(batch.get("attention_mask", torch.ones(shape)).bool())
        handle.remove()

    def run(self, number: int, first: int, last: int) -> Tensor:
        states, (given, named) = self.states[number], self.others[number]
        for layer in self.masked.layers[first:last]:
            states = layer(states, *given, **named)
        return states

    @torch.no_grad()
    def advance(self) -> None:
        self.states = [self.run(n, self.layer, self.layer + 1) for n in range(len(self.states))]
        self.layer += 1

    @torch.no_grad()
    def at(self, place: int, first_token: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """At a site of the layer that it stands before: inputs of the output matrix, and what is added to, by tokens."""
        site = self.masked.sites[place]
        seen: dict[str, Tensor] = {}
        handles = [
            site.out.register_forward_pre_hook(lambda _, given: seen.update(x=given[0])),
            site.added_to.register_forward_pre_hook(lambda _, given: seen.update(stream=given[0])),
        ]
        try:
            for number, real in enumerate(self.real):
                self.run(number, self.layer, self.layer + 1)
                if first_token:
                    yield seen["x"][:, 0], seen["stream"][:, 0]
                else:
                    yield seen["x"][real], seen["stream"][real]
        finally:
            for handle in handles:
                handle.remove()


class _StopError(Exception):
    pass


def batched(rows: list[dict[str, Tensor]], size: int = 32) -> Batches:
    """Examples in batches, padded; texts of like length together, which saves time."""
    rows = sorted(rows, key=lambda r: len(r["input_ids"])) if "input_ids" in rows[0] else rows
    found = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        if "pixel_values" in part[0]:
            batch = {"pixel_values": torch.stack([r["pixel_values"] for r in part])}
        else:
            ids = nn.utils.rnn.pad_sequence([r["input_ids"] for r in part], batch_first=True)
            batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        if "labels" in part[0]:
            batch["labels"] = torch.stack([r["labels"] for r in part])
        found.append(batch)
    return found


def by_labels(masked: Masked, batches: Batches) -> list[list[Tensor]]:
    """For each batch, the gradients of its loss by the masks of parts."""
    masked.watch(True)
    found = []
    for batch in batches:
        columns = torch.autograd.grad(masked.model(**batch).loss, masked.masks)
        found.append([g.view(-1, s.width).sum(1) for g, s in zip(columns, masked.sites, strict=True)])
    masked.watch(False)
    return found


def highest(scores: list[Tensor], count: int, at_least: int = 0) -> list[Tensor]:
    """Masks that keep so many of all parts, those of the highest scores, and so many of each site at least."""
    flat = [s.clone() for s in scores]
    for s in flat:
        if at_least:
            s[s.topk(at_least).indices] = float("inf")
    order = torch.cat(flat).argsort(descending=True)[:count]
    on = torch.zeros(sum(len(s) for s in scores))
    on[order] = 1
    return list(on.split([len(s) for s in scores]))
