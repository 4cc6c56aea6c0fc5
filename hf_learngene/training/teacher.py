"""The teacher: any transformers model of the same label space, in eval mode and without gradients."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import as_pair
from hf_learngene.calibration.processing import processor_of
from hf_learngene.calibration.synthetic.masked_lm import is_masked_lm
from hf_learngene.errors import TeacherError
from hf_learngene.hub.files import PROCESSOR_FILES, source_files
from hf_learngene.hub.load import load_whole


LABELS = ("labels", "label", "label_ids", "start_positions", "end_positions", "next_sentence_label")


class Teacher:
    """A model that is asked, never trained: it is put in eval mode, and its parameters are frozen.

    Args:
        model (`PreTrainedModel`, `str`): the model, or its id or folder; then its own class is loaded.
        processing_class (*optional*): its image processor. An id's own is loaded.
        student_processing_class (*optional*): the student's. Where mean or standard deviation differ, images are normalised
            anew; where their size differs, they are resized.

    Raises:
        CheckpointError: an id or folder without a model that transformers reads, or with a damaged image processor.
    """

    def __init__(
        self, model: PreTrainedModel | str | os.PathLike[str], processing_class: Any, student_processing_class: Any
    ) -> None:
        if not isinstance(model, PreTrainedModel):
            source, model = model, load_whole(model)
            # One that was saved without an image processor says nothing of its normalisation, and is taken as it is.
            if (
                processing_class is None
                and model.main_input_name == "pixel_values"
                and source_files(source, PROCESSOR_FILES, {})
            ):
                processing_class = processor_of(source, "pixel_values")
        self.model = model.eval().requires_grad_(False)
        self.config: PreTrainedConfig = model.config
        self.columns = columns_of(model)
        self.wrapped: torch.nn.Module = self.model
        self.statistics = _statistics(student_processing_class, processing_class)

    def __call__(self, inputs: Mapping[str, Any], hidden_states: bool = False) -> Any:
        """The teacher's outputs on a batch that was made for the student."""
        given = {k: v for k, v in inputs.items() if k in self.columns and k not in LABELS}
        if "pixel_values" in given:
            given["pixel_values"] = self._seen(given["pixel_values"])
        if hidden_states:
            given["output_hidden_states"] = True
        with torch.no_grad():
            return self.wrapped.eval()(**given)

    def _seen(self, pixels: Tensor) -> Tensor:
        if self.statistics is not None:
            scale, shift = (torch.tensor(s, device=pixels.device, dtype=pixels.dtype) for s in self.statistics)
            pixels = pixels * scale[:, None, None] + shift[:, None, None]
        wanted = getattr(self.config, "image_size", None)
        if wanted is not None and tuple(pixels.shape[-2:]) != as_pair(wanted):
            pixels = F.interpolate(pixels, as_pair(wanted), mode="bicubic", antialias=True, align_corners=False)
        return pixels.to(self.model.dtype)


def columns_of(model: PreTrainedModel) -> list[str]:
    """Names of the arguments that a model's forward takes."""
    return [n for n, p in inspect.signature(model.forward).parameters.items() if p.kind != p.VAR_KEYWORD]


def _statistics(student: Any, teacher: Any) -> tuple[list[float], list[float]] | None:
    """(scale, shift) from the student's normalisation to the teacher's, or None where they are the same."""
    if student is None or teacher is None or not hasattr(student, "image_mean") or not hasattr(teacher, "image_mean"):
        return None
    mean, std = _normalisation(student)
    wanted_mean, wanted_std = _normalisation(teacher)
    if (mean, std) == (wanted_mean, wanted_std):
        return None
    scale = [s / w for s, w in zip(std, wanted_std, strict=True)]
    shift = [(m - w) / s for m, w, s in zip(mean, wanted_mean, wanted_std, strict=True)]
    return scale, shift


def _normalisation(processor: Any) -> tuple[list[float], list[float]]:
    if not getattr(processor, "do_normalize", True):
        return [0.0] * 3, [1.0] * 3
    return list(processor.image_mean), list(processor.image_std)


def check_label_space(student: PreTrainedConfig, teacher: PreTrainedConfig, classes: Sequence[str]) -> None:
    """Refuses a teacher whose logits mean something else than the student's.

    Raises:
        TeacherError: other numbers of labels, other names in other places, or other vocabularies.
    """
    if any(is_masked_lm(name) or "PreTraining" in name for name in classes):
        if student.vocab_size != teacher.vocab_size:
            raise TeacherError(
                f"The teacher has a vocabulary of {teacher.vocab_size} tokens, the student one of "
                f"{student.vocab_size}: their logits cannot be compared. Take a student with the teacher's tokenizer, or "
                "distillation='features'."
            )
        return
    if student.num_labels != teacher.num_labels:
        raise TeacherError(
            f"The teacher has {teacher.num_labels} labels, the student {student.num_labels}. Fine-tune the teacher on the "
            f"student's labels, make the student with num_labels={teacher.num_labels}, or use distillation='features'."
        )
    mine, theirs = ({int(k): str(v) for k, v in (c.id2label or {}).items()} for c in (student, teacher))
    named = [n for n in (mine, theirs) if not all(v == f"LABEL_{k}" for k, v in n.items())]
    if len(named) == 2 and mine != theirs:
        place = next(k for k in mine if mine[k] != theirs.get(k))
        raise TeacherError(
            f"Label {place} is {theirs.get(place)!r} for the teacher and {mine[place]!r} for the student. Give the student the "
            "teacher's id2label and label2id, and map the data to them."
        )
