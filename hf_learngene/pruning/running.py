"""One pass of a model: what it gives for a batch, and in which order its modules run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.calibration.examples import rows_of, tokens_shown
from hf_learngene.errors import CalibrationError, LearngeneError
from hf_learngene.state import in_eval_mode, seeded


SEEDED = 1024  # numbers of a batch that say what is drawn for it
# how a model refuses inputs: shapes that do not fit, an index out of range, a check of its own
_REFUSALS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)


def execution_order(model: PreTrainedModel, batch: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """Module names in the order of their first calls; those that are not called are left out."""
    order: list[str] = []
    with ExitStack() as stack:
        for name in names:

            def hook(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                if name not in order:
                    order.append(name)

            handle = model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        run(model, batch)
    return order


def run(model: PreTrainedModel, batch: Mapping[str, Tensor], modules: Iterable[nn.Module] | None = None) -> Any:
    """The model's outputs for a batch, in eval mode; what it draws at random (ViT-MAE's patches) is the same for equal batches.

    Args:
        model: what runs.
        batch: its inputs.
        modules: all of the model's, where they are known.

    Raises:
        CalibrationError: the model cannot take the batch.
    """
    device = next(model.parameters()).device
    moved = {k: v.to(device, model.dtype if v.is_floating_point() else None) for k, v in batch.items()}
    with torch.no_grad(), in_eval_mode(model.modules() if modules is None else modules), seeded(_seed(batch), device):
        try:
            return model(**moved)
        except (LearngeneError, torch.OutOfMemoryError):
            raise
        except _REFUSALS as error:
            shapes = ", ".join(f"{k} {tuple(v.shape[1:])}" for k, v in batch.items())
            said = str(error).strip().splitlines()
            raise CalibrationError(
                f"{type(model).__name__} cannot take calibration examples of these shapes: {shapes}. It says: "
                f"{said[0] if said else type(error).__name__}. Bring them to what it reads with its own image processor or "
                "tokenizer (processing_class=)."
            ) from error


def _seed(batch: Mapping[str, Tensor]) -> int:
    """A number that a batch has in every process, wherever it comes among that process's batches."""
    first = next(iter(batch.values())).flatten()[:SEEDED].cpu()
    return zlib.crc32(first.contiguous().view(torch.uint8).numpy().tobytes())


def output_of(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """The first output of a model but its loss, (tokens, outputs) or (examples, outputs), padding left out, float64."""
    outputs = run(model, batch)
    first = next(v for k, v in outputs.items() if isinstance(v, Tensor) and k != "loss")
    return rows_of(first, tokens_shown(batch)).double()


__all__ = ["execution_order", "output_of", "run"]
