"""A resized model written whole or not at all, with its card and what prepares its inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_learngene.disk import check_space
from hf_learngene.hub import provenance
from hf_learngene.hub.card import model_card
from hf_learngene.hub.inputs import read_inputs
from hf_learngene.hub.origin import origin
from hf_learngene.hub.output import check_output, whole_or_absent
from hf_learngene.hub.shards import SHARD_SIZE, check_shard_size


_SMALL_FILES = 1 << 20  # config, card and the headers of the weights


def save_resized(
    model: PreTrainedModel,
    output: str | os.PathLike,
    *,
    source: str | os.PathLike | None = None,
    processing_class: Any = None,
    loading: Mapping[str, Any] | None = None,
    card: str | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = SHARD_SIZE,
) -> Path:
    """Saves a model with its model card, and with its source's tokenizer or image processor fitted to the new sizes.

    It is written beside the target under a hidden name and renamed when it is complete. Whatever interrupts it, there
    is never half a model at `output`; the next run clears away what a killed one left.

    Args:
        model (`PreTrainedModel`): the model to save.
        output (`str` or `os.PathLike`): a folder that does not exist yet.
        source (`str` or `os.PathLike`, *optional*): Hub id or folder to take tokenizer or image processor and licence from.
            Default: for a model that was made by this package, the place it was loaded from, if it is a Hub id or a folder
            that is still there, else the Hub id on record in `config.learngene`; for any other model nothing is taken.
        processing_class (`PreTrainedTokenizerBase` or image processor, *optional*): in place of the source's, as
            `trim_tokenizer` makes one.
        loading (`Mapping`, *optional*): `revision`, `token`, `cache_dir`, ... of the source.
        card (`str`, *optional*): text of README.md. Default: `hf_learngene.hub.card.model_card` for a model that was made by
            this package, none for any other.
        overwrite (`bool`, *optional*, defaults to `False`): replace a saved model, once the new one is complete.
        max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`): the largest file of weights, as in `save_pretrained`.

    Returns:
        `Path` of the folder.

    Raises:
        UnknownOptionError: a `max_shard_size` that is no size.
        OutputError: the folder exists, holds the source, cannot be written, or the disk is too small.
        VocabularyError: a tokenizer with ids that the model has no rows for.
        ProvenanceError: a `config.learngene` that is no record of this package.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene import resize
        >>> model = BertModel(BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2))
        >>> out = save_resized(resize(model, num_hidden_layers=1), getfixture("tmp_path") / "small")
        >>> sorted(file.name for file in out.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    check_shard_size(max_shard_size)
    provenance.check(model.config)
    if source is None:
        source, pinned = origin(model)
        loading = {**pinned, **(loading or {})}

    def card_of(folder: Path) -> str | None:
        if card is not None or not getattr(model.config, "learngene", None):
            return card
        return model_card(model, source=source, loading=loading, folder=folder, name=Path(output).name)

    def save(folder: Path) -> None:
        model.save_pretrained(folder, max_shard_size=max_shard_size)

    write_resized(model, output, source, processing_class, loading or {}, card_of, overwrite, save)
    return Path(output)


def write_resized(
    model: PreTrainedModel,
    output: str | os.PathLike,
    source: str | os.PathLike | None,
    processing_class: Any,
    loading: Mapping[str, Any],
    card_of: Callable[[Path], str | None],
    overwrite: bool = False,
    save: Callable[[Path], Any] | None = None,
) -> None:
    """Writes a model, what prepares its inputs, and the card that `card_of` gives for the folder of both.

    `save` writes weights and config, by default as `save_pretrained` does.
    """
    path = check_output(output, overwrite, source)
    inputs = read_inputs(model, source, loading, processing_class)
    weights = {id(t): t.nbytes for t in (*model.parameters(), *model.buffers())}
    needed = sum(weights.values()) + inputs.nbytes + _SMALL_FILES
    check_space(path, needed)
    with whole_or_absent(path, overwrite, needed) as folder:
        (save or model.save_pretrained)(folder)
        inputs.write(folder)
        text = card_of(folder)
        if text is not None:
            (folder / "README.md").write_text(text, encoding="utf-8")
