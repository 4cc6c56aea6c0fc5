"""Made-up examples of a model's own inputs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hf_learngene.anatomy.config_fields import section, section_name
from hf_learngene.anatomy.inputs import main_input
from hf_learngene.calibration.input_bounds import InputBounds
from hf_learngene.calibration.synthetic.count import examples_needed
from hf_learngene.calibration.synthetic.limits import why_not
from hf_learngene.calibration.synthetic.masked_lm import LONGEST_WRITTEN, mask_of, written
from hf_learngene.calibration.synthetic.pixels import pixel_columns, size_for
from hf_learngene.calibration.synthetic.texts import LONGEST, token_columns, vocabulary_of
from hf_learngene.errors import CalibrationError


if TYPE_CHECKING:
    import datasets


logger = logging.get_logger(__name__)
# MiniLM on TREC, half of its ffn, of its width: 54.6 and 27.6 % of 500 questions, with its tokenizer 90.4 and 86.2 %
UNFRAMED = (
    "There is no tokenizer at hand, and the config does not name the tokens that frame a text ([CLS], [SEP], or the like), so "
    "the made-up texts lack them. A model that is shrunk on such texts may keep little: give its tokenizer, or the name of a "
    "checkpoint that has it (processing_class=)."
)


def synthetic_examples(
    model: PreTrainedModel, processing_class: Any = None, *, count: int | None = None, seed: int = 0
) -> datasets.Dataset:
    """Made-up examples of a model's own inputs, to calibrate on where there is no data.

    Of eight images seven are dead leaves and one is pink noise; of eight texts seven are whole words, as frequent as Zipf's law
    has them, with commas and full stops, and one is of any tokens. A masked language model writes the seven itself, word by
    word, where its tokenizer is given. Example `i` depends on the seed and on `i`: of fewer examples, each is the same (of
    texts that a model writes, but for rounding, by which a word may differ). The caller's random state is left as it is.

    Args:
        model (`PreTrainedModel`): whose inputs they are.
        processing_class (*optional*): the checkpoint's own image processor, tokenizer or processor: images are normalised by it,
            and it says which tokens are words. Without one the config is all there is to go by, and few configs name the tokens
            that frame a text: a warning says so.
        count (`int`, *optional*): of examples. Defaults to `examples_needed`.
        seed (`int`, *optional*, defaults to 0): for every random number.

    Returns:
        `datasets.Dataset`: the model's own columns (`pixel_values`, or `input_ids` and what goes with them), as torch tensors.

    Raises:
        SyntheticExamplesError: the model reads something that cannot be made up, or the processor is of another kind.
        CalibrationError: a count that is no positive whole number.

    Example:
        >>> from transformers import ViTConfig, ViTModel
        >>> vit = ViTModel(ViTConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=1, image_size=32))
        >>> synthetic_examples(vit, count=4)["pixel_values"][:].shape
        torch.Size([4, 3, 32, 32])
    """
    if (error := why_not(model.config, type(model))) is not None:
        raise error
    if count is None:
        count = examples_needed(model, processing_class)
    elif isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise CalibrationError(f"count is a whole number of examples, at least 1; it was {count!r}.")
    main, seed = main_input(type(model)), seed % 2**64
    part = section(model.config, section_name(model.config, main))
    taken = set(inspect.signature(model.forward).parameters)
    if main == "pixel_values":
        return _of_arrays(pixel_columns(part, processing_class, count, seed, taken, size_for(model, processing_class)))
    bounds = InputBounds.of(model)
    size = bounds.tokens or part.vocab_size
    mask = mask_of(type(model), processing_class, size)
    if processing_class is None and not vocabulary_of(part, None, size).framing(pairs=False):
        logger.warning(UNFRAMED)
    columns = token_columns(
        part,
        processing_class,
        count,
        seed,
        taken,
        size=size,
        room=_room(part, bounds.length),
        pairs=type(model).__name__.endswith("ForQuestionAnswering"),
        longest=LONGEST if mask is None else LONGEST_WRITTEN,
    )
    if mask is not None:
        columns["input_ids"] = written(model, columns, mask, vocabulary_of(part, processing_class, size), seed)
    from datasets import Dataset

    return Dataset.from_dict(columns).with_format("torch")


def _room(part: PreTrainedConfig, known: int | None) -> int | None:
    """Tokens of the longest text; where the model's table does not show it, as if the padding's positions were taken."""
    stated = getattr(part, "max_position_embeddings", None)
    if known is not None or not stated:
        return known
    return max(1, stated - (getattr(part, "pad_token_id", None) or 0) - 1)


def _of_arrays(columns: dict[str, NDArray[Any]]) -> datasets.Dataset:
    from datasets import Array2D, Array3D, Array4D, Dataset, Features

    arrays = {2: Array2D, 3: Array3D, 4: Array4D}
    features = {}
    for name, values in columns.items():
        kind = values.dtype.name
        shape = values.shape[1:]
        features[name] = arrays[len(shape)](shape, kind) if len(shape) > 1 else _row(kind, len(shape))
    given = {n: v if v.ndim > 2 else v.tolist() for n, v in columns.items()}
    return Dataset.from_dict(given, features=Features(features)).with_format("torch")


def _row(kind: str, dims: int) -> Any:
    import datasets

    return datasets.List(datasets.Value(kind)) if dims else datasets.Value(kind)


__all__ = ["synthetic_examples"]
