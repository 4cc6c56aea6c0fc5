"""`AutoLearngene` and `AutoLearngeneConfig`: any learngene by its type, its folder or its Hub id."""

from __future__ import annotations

import os
from typing import Any, cast

from transformers import PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from hf_learngene.hub.files import hub_keywords
from hf_learngene.hub.load import pinned
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.config import LearngeneConfig
from hf_learngene.learngenes.from_ancestry import fitted_learngene
from hf_learngene.learngenes.loading import load_learngene_config
from hf_learngene.learngenes.registry import LEARNGENE_MAPPING, config_class_of


class AutoLearngeneConfig:
    """The config of any learngene.

    Example:
        >>> from transformers import ViTConfig
        >>> AutoLearngeneConfig.for_type("tleg", base_config=ViTConfig()).model_type
        'learngene_tleg'
    """

    def __init__(self) -> None:
        raise OSError(
            "Use AutoLearngeneConfig.from_pretrained(id) or AutoLearngeneConfig.for_type('wave', base_config=...)."
        )

    @classmethod
    def for_type(cls, learngene_type: str, **kwargs: Any) -> LearngeneConfig:
        """A new config of a type (`"wave"`, `"sws"`, ...), with its options as keywords."""
        return config_class_of(learngene_type)(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> LearngeneConfig:
        """The config of a saved learngene; keywords as for `AutoConfig.from_pretrained`.

        Raises:
            CheckpointError: no such checkpoint, a config that does not hold, or that of an ordinary model.
        """
        return load_learngene_config(pretrained_model_name_or_path, **kwargs)


class AutoLearngene(_BaseAutoModelClass):
    """Any learngene: `from_pretrained(id)`, `from_config(config)`, or `from_ancestry(model, learngene_type=...)`."""

    _model_mapping: Any = LEARNGENE_MAPPING

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Learngene:
        """Loads a saved learngene of any kind; keywords as for transformers' `from_pretrained`.

        Raises:
            CheckpointError: an ordinary model, a config that does not hold, or a checkpoint with tensors that are absent, of
                another shape or not the learngene's.
        """
        config = kwargs.get("config")
        if not isinstance(config, LearngeneConfig):
            kwargs = pinned(pretrained_model_name_or_path, kwargs)  # config and weights of one state of the Hub
            config = load_learngene_config(pretrained_model_name_or_path, **hub_keywords(kwargs))
        model_class = cast(type[Learngene], LEARNGENE_MAPPING[type(config)])
        return model_class.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_ancestry(
        cls,
        model: PreTrainedModel | str | os.PathLike[str],
        learngene_type: str = "wave",
        *,
        seed: int = 0,
        **options: Any,
    ) -> Learngene:
        """A learngene fitted to a pretrained model in closed form: to its weights, or to what it computes on examples.

        Args:
            model (`PreTrainedModel`, `str`): the ancestry model, or its id or folder. An id's commit and licence go on the
                learngene's card; a model in memory does not tell its commit, and its licence only from a folder or the cache.
            learngene_type (`str`, *optional*, defaults to `"wave"`): see `registered_learngenes()`.
            seed (`int`, *optional*, defaults to 0): for every number that is drawn; the caller's random state
                is as it was afterwards.
            **options: options of the learngene (`num_stages=5`, `template_share=0.1`), and sizes of the auxiliary model where
                they differ from the ancestry's (`num_hidden_layers=12`), which is then resized first. `calibration=`,
                `processing_class=`, `calibration_column=`, `calibration_size=` and `calibration_top_up=`, as of `resize`: a few
                hundred unlabelled examples, or `"synthetic"`, on which `sws`, `wave` and `fine` are fitted too (`condensed`
                always is; the others take none). With an id or a folder, any keyword of `from_pretrained` too (`revision`,
                `token`, `cache_dir`, `dtype`, ...).

        Returns:
            `Learngene`, with `residuals`: component -> relative Frobenius residual of the fit.

        Raises:
            LearngeneError: an unknown type, option or size, or a family that is not understood; a checkpoint that cannot be
                read, or loading keywords beside a model in memory; examples that do not fit, or for a kind that takes none.

        Example:
            >>> from transformers import BertConfig, BertModel
            >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=4)
            >>> learngene = AutoLearngene.from_ancestry(BertModel(config), "sws", num_stages=4)
            >>> max(learngene.residuals.values())
            0.0
        """
        return fitted_learngene(model, learngene_type, options, seed)


__all__ = ["AutoLearngene", "AutoLearngeneConfig"]
