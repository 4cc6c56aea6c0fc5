"""How well a smaller model agrees with its source on the same inputs, in the terms of its head. No label is needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy.config_fields import section, section_name
from hf_learngene.anatomy.inputs import main_input
from hf_learngene.calibration.examples import Batches, rows_of, tokens_shown
from hf_learngene.calibration.few import together
from hf_learngene.calibration.processing import processor_for
from hf_learngene.calibration.synthetic.masked_lm import is_masked_lm
from hf_learngene.pruning.running import run
from hf_learngene.pruning.similarity import cosines_of_pairs, pooled, rank_correlation, unit_length


TOP_CLASS = "same top class"
TOP_TOKEN = "same top token"
TOP_PLACES = "same top class of each place"
COSINE = "cosine of embeddings"
RANKS = "rank correlation of cosines"
PREDICTIONS = "rank correlation of predictions"

_SAID = {
    TOP_CLASS: "agrees with the source on {percent} of {count:,} {examples}",
    TOP_TOKEN: "fills in what the source does at {percent} of {count:,} masked places in {examples}",
    TOP_PLACES: "agrees with the source at {percent} of {count:,} places in {examples}",
    COSINE: "gives embeddings with a mean cosine of {value:.3f} to the source's, on {count:,} {examples}",
    RANKS: "orders pairs of {count:,} {examples} by cosine as the source does, at a rank correlation of {value:.3f}",
    PREDICTIONS: "orders {count:,} {examples} as the source does, at a rank correlation of {value:.3f}",
}
_ALIKE = 0.9  # of the source's answers are one and the same: to agree on them says little
_MASKED = 7  # one in so many places is masked, about as many as in training
_EMBEDDINGS = ("image_embeds", "text_embeds")
_INPUT_FIELDS = ("vocab_size", "image_size", "num_channels")


@dataclass(frozen=True)
class Agreement:
    """How well a model agrees with its source; 1 is everywhere.

    Attributes:
        kind: `"same top class"`, of each example or `"same top class of each place"`, `"same top token"` where one is masked,
            `"cosine of embeddings"`, `"rank correlation of cosines"` or `"rank correlation of predictions"`.
        value: the share, mean cosine, or Spearman's correlation.
        count: of examples, or of places in them.
        commonest: share of the source's answers that its commonest one has; None where it does not choose among some.

    Example:
        >>> print(Agreement("same top class", 0.9375, 64, 0.25))
        agrees with the source on 93.8 % of 64 held-back examples
        >>> print(Agreement("same top class", 1.0, 64, 0.96875))
        agrees with the source on 100.0 % of 64 held-back examples, which says little, for 96.9 % of its answers there are one
        and the same
    """

    kind: str
    value: float
    count: int
    commonest: float | None = None

    def __str__(self) -> str:
        return self.on("held-back examples")

    def on(self, examples: str) -> str:
        """The sentence, with these words for the examples."""
        said = _SAID.get(self.kind, "agrees with the source: {kind} {value:.3f} on {count:,} {examples}")
        told = said.format(
            kind=self.kind, value=self.value, count=self.count, percent=_percent(self.value), examples=examples
        )
        if self.commonest is None or self.commonest < _ALIKE:
            return told
        return f"{told}, which says little, for {_percent(self.commonest)} of its answers there are one and the same"


def agreement(
    source: PreTrainedModel, target: PreTrainedModel, batches: Batches, *, pooling: str | None = None
) -> Agreement | None:
    """Compares two models on the same examples, as their head says.

    Classifiers are compared by their top class; token classification and question answering by that of each place that is no
    padding; masked LM by the top token where one in seven is masked; a single number by its ranks; models without a head, and
    those whose head is another, by the cosine of their embeddings, the mean over an example's tokens. Vectors of two widths have
    no cosine: there the cosines of all pairs of examples are ranked.

    Args:
        source (`PreTrainedModel`): what to agree with.
        target (`PreTrainedModel`): the smaller model.
        batches: examples that neither was fitted on, as `held_back` gives them.
        pooling (`str`, *optional*): how a sentence encoder makes one vector: `"mean"`, `"cls"` or `"max"` of its tokens. Sentence
            encoders are told by it, and are compared by ranks: what they are for is to find what is similar.

    Returns:
        `Agreement`; None where the two read other inputs (another vocabulary, images of another size).

    Raises:
        CalibrationError: fewer than three examples to rank.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene.calibration.examples import Examples
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, vocab_size=20)
        >>> model = BertModel(config)
        >>> examples = Examples([{"input_ids": [5, 6, n]} for n in range(4)], model)
        >>> print(agreement(model, model, examples))
        gives embeddings with a mean cosine of 1.000 to the source's, on 4 held-back examples
    """
    if not _read_the_same(source, target):
        return None
    if pooling is None and source.config.num_labels != target.config.num_labels:
        source, target = (cast(PreTrainedModel, model.base_model) for model in (source, target))
    mask = _mask_token(source)
    shares, pairs, scored = _Shares(), list[tuple[Tensor, Tensor]](), False
    for batch in together(batches.batches()):
        given, places = (batch, tokens_shown(batch)) if mask is None else _masked(batch, mask)
        theirs, ours = run(source, given), run(target, given)
        decided = [] if pooling else list(_decisions(source, theirs, ours, places, masked=mask is not None))
        for kind, wanted, found in decided:
            shares.add(kind, wanted, found)
        if not decided:
            scored = pooling is None and _logits(theirs) is not None and _logits(theirs).shape[1:] == (1,)
            name = _embeddings(theirs, ours)
            pairs.append((_vectors(theirs, batch, pooling, name), _vectors(ours, batch, pooling, name)))
    if shares.kind is not None:
        return Agreement(shares.kind, shares.same / shares.count, shares.count, shares.commonest)
    wanted, found = (torch.cat(vectors) for vectors in zip(*pairs, strict=True))
    if scored:
        return Agreement(PREDICTIONS, rank_correlation(wanted[:, 0], found[:, 0]), len(wanted))
    if pooling is None and wanted.shape == found.shape:
        return Agreement(COSINE, float((unit_length(wanted) * unit_length(found)).sum(1).mean()), len(wanted))
    return Agreement(RANKS, rank_correlation(cosines_of_pairs(wanted), cosines_of_pairs(found)), len(wanted))


def distance(
    source: PreTrainedModel, target: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]]
) -> float | None:
    """How far a model is from its source on the same examples; two models made of one source compare by it.

    Args:
        source: what to be near to.
        target: the smaller model.
        batches: examples that it was not fitted on.

    Returns:
        Squared distance of the first outputs as a share of the source's squares, infinite where the target overflows. Where
        outputs are of two widths, one less the rank correlation of the cosines of pairs. None where the two read other inputs.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, vocab_size=20)
        >>> model = BertModel(config)
        >>> distance(model, model, [{"input_ids": torch.tensor([[5, 6, 7]])}])
        0.0
    """
    if not _read_the_same(source, target):
        return None
    if source.config.num_labels != target.config.num_labels:
        source, target = (cast(PreTrainedModel, model.base_model) for model in (source, target))
    lost, squares, pairs = 0.0, 0.0, list[tuple[Tensor, Tensor]]()
    for batch in batches:
        theirs, ours = run(source, batch), run(target, batch)
        wanted, found = (rows_of(_first(outputs), tokens_shown(batch)).double() for outputs in (theirs, ours))
        if wanted.shape == found.shape:
            lost += float((found - wanted).pow(2).sum())
            squares += float(wanted.pow(2).sum())
        else:
            name = _embeddings(theirs, ours)
            pairs.append((_vectors(theirs, batch, None, name), _vectors(ours, batch, None, name)))
    if pairs:
        one, other = (cosines_of_pairs(torch.cat(vectors)) for vectors in zip(*pairs, strict=True))
        return 1.0 - rank_correlation(one, other)
    return lost / max(squares, 1e-30) if math.isfinite(lost) else math.inf


@dataclass
class _Shares:
    kind: str | None = None
    same: int = 0
    count: int = 0
    answers: Counter[int] = field(default_factory=Counter)

    def add(self, kind: str, wanted: Tensor, found: Tensor) -> None:
        """Counts rows whose largest entry is at the same place; rows that are not finite agree on nothing."""
        finite = wanted.isfinite().all(1) & found.isfinite().all(1)
        self.kind = kind
        self.same += int((finite & (wanted.argmax(1) == found.argmax(1))).sum())
        self.count += len(wanted)
        self.answers.update(wanted.argmax(1).cpu().tolist())

    @property
    def commonest(self) -> float:
        """Share of the source's answers that its commonest one has."""
        return max(self.answers.values()) / self.count


def _percent(share: float) -> str:
    return f"{share:.1%}"[:-1] + " %"


def _read_the_same(source: PreTrainedModel, target: PreTrainedModel) -> bool:
    one, other = (section(m.config, section_name(m.config, main_input(type(m)))) for m in (source, target))
    return all(getattr(one, name, None) == getattr(other, name, None) for name in _INPUT_FIELDS)


def _mask_token(model: PreTrainedModel) -> int | None:
    """The id that stands for a token to be filled in; None where the model fills in none, or nobody knows it."""
    if not is_masked_lm(type(model)):
        return None
    named = getattr(model.config, "mask_token_id", None)
    return named if named is not None else getattr(processor_for(model), "mask_token_id", None)


def _masked(batch: Mapping[str, Tensor], mask: int) -> tuple[dict[str, Tensor], Tensor]:
    """A batch with some of its tokens masked, and the places of these."""
    tokens, shown = batch["input_ids"], tokens_shown(batch)
    places = (
        torch.arange(tokens.shape[1]) + 2 * torch.arange(len(tokens))[:, None]
    ) % _MASKED == 3  # others in each example, never the first token of all
    if shown is not None:
        places = places & shown
    return {**batch, "input_ids": tokens.masked_fill(places, mask)}, places


def _logits(outputs: Mapping[str, Any]) -> Any:
    return outputs["logits"] if "logits" in outputs else outputs.get("prediction_logits")


def _decisions(
    model: PreTrainedModel, theirs: Mapping[str, Any], ours: Mapping[str, Any], places: Tensor | None, masked: bool
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(kind, wanted, found) scores to choose the largest of, a row for each choice; nothing where a model chooses none."""
    if "start_logits" in theirs:
        for name in ("start_logits", "end_logits"):
            wanted, found = (_without(outputs[name].float(), places) for outputs in (theirs, ours))
            yield TOP_PLACES, wanted, found
        return
    wanted, found = _logits(theirs), _logits(ours)
    if wanted is None or found is None or wanted.shape != found.shape or wanted.shape[-1] < 2:
        return
    if wanted.dim() == 2:
        yield TOP_CLASS, wanted.float(), found.float()
    elif wanted.dim() == 4 and wanted.shape[1] == model.config.num_labels:  # of each pixel
        yield (
            TOP_PLACES,
            wanted.movedim(1, -1).flatten(0, 2).float(),
            found.movedim(1, -1).flatten(0, 2).float(),
        )
    elif wanted.dim() == 3 and wanted.shape[-1] in (
        model.config.num_labels,
        getattr(model.config, "vocab_size", None),
    ):
        kind = TOP_TOKEN if masked else TOP_PLACES
        yield kind, rows_of(wanted, places).float(), rows_of(found, places).float()


def _without(scores: Tensor, shown: Tensor | None) -> Tensor:
    """Scores of places with those of padding out of the question."""
    return scores if shown is None else scores.masked_fill(~shown.to(scores.device), torch.finfo(scores.dtype).min)


def _embeddings(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """Which embeddings of images and texts to compare: of two towers, those of the one that was resized."""
    both = [n for n in _EMBEDDINGS if theirs.get(n) is not None and ours.get(n) is not None]
    return next((n for n in both if not torch.equal(theirs[n], ours[n])), both[0] if both else None)


def _first(outputs: Mapping[str, Any]) -> Tensor:
    """The first output but the loss."""
    return next(v for k, v in outputs.items() if isinstance(v, Tensor) and k != "loss")


def _vectors(outputs: Mapping[str, Any], batch: Mapping[str, Tensor], pooling: str | None, name: str | None) -> Tensor:
    """One vector for each example, float64 on the CPU."""
    given = outputs[name] if name is not None else None
    if given is None:
        given = outputs.get("last_hidden_state")
    if given is None:
        given = _first(outputs)
    return pooled(given, tokens_shown(batch), pooling or "mean")


__all__ = ["Agreement", "agreement", "distance"]
