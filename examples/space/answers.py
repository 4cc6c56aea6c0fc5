"""What two models say to the same image or sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from hf_learngene.anatomy.config_fields import as_pair
from hf_learngene.errors import LearngeneError


SHOWN = 5


Said = dict[str, float]


class AnswerError(LearngeneError):
    """An input that the models cannot be asked about."""


def answers(models: Sequence[PreTrainedModel], processor: Any, inputs: Sequence[Any]) -> list[Said]:
    """What each model says to the same image or sentence: names with scores, the highest first.

    Models with a head name their classes, or words for the mask. Those without say how similar two inputs are, by the cosine of
    their mean embeddings.
    """
    given = [one for one in inputs if one is not None and one != ""]
    if not given:
        raise AnswerError("Give an image or a sentence to try.")
    return [_said(model, processor, given) for model in models]


@torch.inference_mode()
def _said(model: PreTrainedModel, processor: Any, given: Sequence[Any]) -> Said:
    inputs = _inputs(model, processor, given)
    output = model(**inputs)
    if not hasattr(output, "logits"):
        if len(given) < 2:
            raise AnswerError(
                "This model has no head: give two images or sentences, and see how similar they are to it."
            )
        states, mask = output.last_hidden_state, inputs.get("attention_mask")
        read = torch.ones(states.shape[:2]) if mask is None else mask  # the shorter sentence is padded
        vectors = torch.nn.functional.normalize((states * read[..., None]).sum(1), dim=-1)
        return {"similarity of the two": float(vectors[0] @ vectors[1])}
    scores, name = output.logits[0], model.config.id2label.get
    if scores.ndim == 2:
        place = [i for i, t in enumerate(processor(given[0])["input_ids"]) if t == processor.mask_token_id]
        if not place:
            raise AnswerError(f"Put {processor.mask_token} where a word is to be filled in.")
        scores, name = scores[place[0]], processor.decode
    best = scores.softmax(-1).topk(min(SHOWN, len(scores)))
    return {str(name(i)).strip(): float(s) for s, i in zip(best.values, best.indices.tolist(), strict=True)}


def _inputs(model: PreTrainedModel, processor: Any, given: Sequence[Any]) -> Any:
    if not isinstance(given[0], Image.Image):
        return processor(list(given), return_tensors="pt", padding=True, truncation=True)
    height, width = as_pair(model.config.image_size)  # a processor may have been made for a larger one
    images = [one.convert("RGB").resize((width, height)) for one in given]
    return processor(images, do_resize=False, do_center_crop=False, return_tensors="pt")
