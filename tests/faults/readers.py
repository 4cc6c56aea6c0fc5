"""Who reads a checkpoint, and what is dishonest of what they made of it: each says it in words, or None."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel

from faults.commands import COMMANDS, World, cli, state
from hf_learngene import (
    AutoLearngene,
    plan,
    resize,
    resize_adapter,
    resize_checkpoint,
    resize_trainer_checkpoint,
    save_resized,
)
from hf_learngene.calibration.processing import processor_of
from hf_learngene.comparing import Comparison
from hf_learngene.hub.load import load_whole
from hf_learngene.resizing.from_pretrained import load_resized
from hf_learngene.resizing.spec import ResizeSpec
from hf_learngene.state import quiet, seeded
from hf_learngene.training.resuming import fault_of
from testing.adapters import output


# what is asked of a family, so that each of its weights takes part
SIZES: dict[str, dict[str, Any]] = {"swin": {"mlp_ratio": 3}, "clip": {"vision_config": {"num_hidden_layers": 2}}}
FLAT = {"hidden_size": 16}


def _sizes(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        return FLAT
    try:
        return SIZES.get(json.loads((folder / "config.json").read_text())["model_type"], FLAT)
    except (ValueError, LookupError, TypeError, OSError, RecursionError):
        return FLAT


# ---- models


def planned(world: World, folder: Path, made: Path) -> str | None:
    """A plan, from the config alone."""
    found = plan(folder, calibration=None, **_sizes(folder))
    str(found)
    with torch.device("meta"):
        model = found.model_class(found.target_config)
    count = sum(parameter.numel() for parameter in model.parameters())
    return None if count == found.num_parameters else f"{found.num_parameters} are planned, and built {count}"


def loaded(world: World, folder: Path, made: Path) -> str | None:
    """A model of another size in memory."""
    spec = ResizeSpec.parse(_sizes(folder), calibration=None, loads=True)
    return _unlike(load_resized(folder, spec), folder)


def written(world: World, folder: Path, made: Path) -> str | None:
    """The same in a folder, tensor by tensor."""
    resize_checkpoint(folder, made / "out", calibration=None, **_sizes(folder))
    name = json.loads((made / "out" / "config.json").read_text())["architectures"][0]
    return _unlike(getattr(transformers, name).from_pretrained(made / "out"), folder)


def calibrated(world: World, folder: Path, made: Path) -> str | None:
    """A model that was refitted on examples: what it gives are numbers."""
    cli("resize", folder, made / "out", "--size", "intermediate_size=24", "--calibration", world / "images.parquet",
        "--calibration-size", 8, "--no-calibration-top-up")  # fmt: skip
    return _no_numbers(load_file(made / "out" / "model.safetensors"))


def taken_whole(world: World, folder: Path, made: Path) -> str | None:
    """A model as it is: a teacher, or what is compared."""
    model = load_whole(folder)
    with quiet():
        source, info = type(model).from_pretrained(folder, output_loading_info=True)
    if info["missing_keys"]:
        return f"{min(info['missing_keys'])} is not there, and was drawn"
    return _first_unlike(model, source, set())


def _unlike(model: PreTrainedModel, folder: Path) -> str | None:
    """How a resized model differs from what transformers reads in the folder, resized."""
    with quiet(), seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source, info = type(model).from_pretrained(folder, output_loading_info=True)
        wanted = resize(source, calibration=None, **_sizes(folder))
    fresh = set(model.config.learngene["fresh"])
    if unsaid := [
        name for name in info["missing_keys"] if name not in fresh and name not in source.all_tied_weights_keys
    ]:
        return f"{min(unsaid)} is not there, and nothing says that it was drawn"
    return _first_unlike(model, wanted, fresh)


def _first_unlike(model: PreTrainedModel, wanted: PreTrainedModel, but: set[str]) -> str | None:
    other = wanted.state_dict()
    for name, tensor in model.state_dict().items():
        same = name in other and tensor.dtype == other[name].dtype and tensor.shape == other[name].shape
        if name not in but and not (same and torch.equal(tensor.nan_to_num(3), other[name].nan_to_num(3))):
            return f"{name} is another than transformers reads"
    return None


def _no_numbers(tensors: dict[str, torch.Tensor]) -> str | None:
    return next((f"{n} holds what is no number" for n, t in tensors.items() if not bool(t.isfinite().all())), None)


# ---- what prepares inputs


def saved_beside(world: World, folder: Path, made: Path) -> str | None:
    """A tokenizer or image processor carried to a model of fewer positions or of another image size: fitted, or left out."""
    images = (folder / "preprocessor_config.json").is_symlink() or any(folder.glob("preprocessor_config.json"))
    source = world / ("vit" if images else "bert")
    model = load_whole(source)
    small = resize(model, calibration=None, **({"image_size": 20} if images else {"max_position_embeddings": 20}))
    save_resized(small, made / "out", source=folder)
    names = {path.name for path in (made / "out").iterdir()}
    if not {"config.json", "model.safetensors"} <= names:
        return f"the model is not there, but {sorted(names)}"
    file = "preprocessor_config.json" if images else "tokenizer.json"
    if file in names and _reads(made / "out", images) != _reads(folder, images):
        return "what was carried is read where its source is not, or the other way round"
    return None


def _reads(folder: Path, images: bool) -> bool:
    """Whether transformers reads an image processor or a tokenizer there."""
    try:
        if images:
            AutoImageProcessor.from_pretrained(folder, backend="pil")
        else:
            AutoTokenizer.from_pretrained(folder)
    except Exception:
        return False
    return True


def prepared(world: World, folder: Path, made: Path) -> str | None:
    """A tokenizer or image processor in use: it works."""
    processor_of(folder, "pixel_values" if (folder / "preprocessor_config.json").is_file() else "input_ids")
    return None


def trimmed(world: World, folder: Path, made: Path) -> str | None:
    """A smaller vocabulary, by a corpus."""
    cli("resize", folder, made / "out", "--corpus", world / "corpus.txt")
    tokenizer = AutoTokenizer.from_pretrained(made / "out")
    rows = json.loads((made / "out" / "config.json").read_text())["vocab_size"]
    ids = tokenizer("good film bad plot")["input_ids"]
    return None if all(0 <= number < rows for number in ids) else f"{max(ids)} has no row of {rows}"


# ---- everything else that is saved


def initialised(world: World, folder: Path, made: Path) -> str | None:
    """A model from a learngene, in a folder; the same one each time."""
    cli("init", folder, made / "out", "--num-hidden-layers", 4, "--calibration", "none")
    first = load_file(made / "out" / "model.safetensors")
    second = AutoLearngene.from_pretrained(folder).initialize(num_hidden_layers=4, calibration=None)
    again = transformers.AutoModelForImageClassification.from_pretrained(made / "out")
    if unlike := _first_unlike(again, second, set()):
        return unlike.replace("transformers reads", "the last time")
    return _no_numbers(first)


def carried(world: World, folder: Path, made: Path) -> str | None:
    """An adapter on its grown base, which gives what the adapter gives on the base as it was."""
    base, wide = load_whole(world / "texts").eval(), load_whole(world / "wide").eval()
    found = resize_adapter(folder, copy.deepcopy(wide), world / "texts").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
    found.save_pretrained(made / "out")
    difference = (output(found, wide) - output(wanted, base)).abs()
    largest = float(difference.nan_to_num(0).max())
    return (
        None
        if largest <= 1e-3 * (1 + float(output(wanted, base).abs().nan_to_num(0).max()))
        else f"{largest:.2g} apart"
    )


def grown(world: World, folder: Path, made: Path) -> str | None:
    """A Trainer's checkpoint of a larger model."""
    resize_trainer_checkpoint(folder, made / "out", hidden_size=48)
    return fault_of(made / "out")


def shown(world: World, folder: Path, made: Path) -> str | None:
    """A comparison, read and shown."""
    found = Comparison.load(folder)
    str(found)
    found.to_markdown()
    return None


def compared_again(world: World, folder: Path, made: Path) -> str | None:
    """A comparison, run again: what is damaged is done again, or it is refused."""
    COMMANDS["compare"](world, folder)
    return None if state(folder) == state(world / "compared") else "it is another comparison"


def carried_sentences(world: World, folder: Path, made: Path) -> str | None:
    """A sentence encoder of fewer layers: with its modules, or without where they are damaged."""
    resize_checkpoint(folder, made / "out", calibration=None, num_hidden_layers=2)
    return None if (made / "out" / "model.safetensors").is_file() else "no weights"
