"""All kinds of lies, and who is told."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import BertModel

from faults import readers
from faults.commands import COMMANDS, World
from faults.lies import RAN, Kind, Lie
from faults.lies_json import FEW, added, fields, texts, together
from faults.lies_weights import _Evil, headers, indices, metadata, pickles, tensors
from hf_learngene import AutoLearngene
from testing.checkpoints import save_checkpoint
from testing.learngenes import KINDS as LEARNGENES
from testing.learngenes import OPTIONS


MODULES = [
    {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for n, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
]


def extend(world: World) -> World:
    """A world with what only lies are told of: a finished comparison, a sentence encoder, a learngene of every kind, two more
    families."""
    COMMANDS["compare"](world, world / "compared")
    save_checkpoint(world / "sentences", "bert", "BertModel")
    BertModel.from_pretrained(world / "sentences").save_pretrained(world / "sentences")
    (world / "sentences" / "modules.json").write_text(json.dumps(MODULES))
    (world / "sentences" / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (world / "sentences" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (world / "sentences" / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    for kind in LEARNGENES:
        if kind != "sws":
            AutoLearngene.from_ancestry(str(world / "vit"), kind, calibration=None, **OPTIONS[kind]).save_pretrained(
                world / kind
            )
    save_checkpoint(world / "swin", "swin", "SwinForImageClassification")
    save_checkpoint(world / "clip", "clip", "CLIPModel")
    return world


MORE_FIELDS: dict[str, Any] = {
    "auto_map": ({"AutoConfig": "x.Y"}, {"AutoConfig": 3}, [], "x", {"AutoModel": "../x.Y"}),
    "quantization_config": ({}, {"quant_method": "x"}, {"quant_method": "gptq", "bits": 4}, [], "x", 3),
    "learngene": (3, "x", [], {}, {"format": 1}, {"format": 99}),
    "num_labels": (-1, 0, 1, 10**9, "x", None, 1.5, []),
    "torch_dtype": ("x", 3, "float8_e4m3fn", "complex64", "int8", None),
    "dtype": ("x", 3, "float8_e4m3fn", "complex64", "int8", "float64", []),
    "problem_type": ("x", 3, []),
    "attn_implementation": ("x", 3, "flash_attention_2"),
    "_attn_implementation": ("x", 3, "flash_attention_2"),
    "use_return_dict": (3, "x"),
    "is_decoder": (True, "x", 3),
    "add_cross_attention": (True,),
    "tie_word_embeddings": (True, False, "x"),
    "pruned_heads": ({"0": [0]}, {"0": [99]}, {"x": 1}, [], 3),
    "chunk_size_feed_forward": (-1, 3, "x"),
    "output_attentions": (True, "x"),
    "torchscript": (True,),
}


def states(folder: Path) -> Iterator[Lie]:
    """Optimizer and scheduler of a Trainer's checkpoint, damaged or made to run code; its other pickles are never opened."""
    for file in ("optimizer.pt", "scheduler.pt"):
        held = torch.load(folder / file, weights_only=True)
        contents: dict[str, Any] = {
            "a list": [1],
            "nothing": {},
            "a text": "x",
            "one tensor": torch.zeros(3),
            "NaN": float("nan"),
        }
        for key in held:
            contents |= {f"no {key}": {k: v for k, v in held.items() if k != key}}
            contents |= {f"{key} is {value}": {**held, key: value} for value in (None, -1, "x", [], {}, [1, 2], 1e300)}
        if file == "optimizer.pt":
            first = next(iter(held["state"]))
            for key in held["state"][first]:
                for value in (None, "x", torch.zeros(2), torch.zeros(0), torch.tensor(float("nan"))):
                    state = {**held["state"], first: {**held["state"][first], key: value}}
                    contents[f"{key} of one is {value}"] = {**held, "state": state}
            contents["states of fewer"] = {**held, "state": {k: v for k, v in held["state"].items() if k != first}}
            contents["states of more"] = {**held, "state": {**held["state"], 999: held["state"][first]}}
        for name, content in contents.items():
            yield Lie(f"{file}: {name}", lambda place, f=file, c=content: torch.save(c, place / f), file)
        yield Lie(
            f"{file}: half", lambda place, f=file: (place / f).write_bytes((place / f).read_bytes()[:200]), file, False
        )
        yield Lie(f"{file}: empty", lambda place, f=file: (place / f).write_bytes(b""), file, False)
        yield Lie(f"{file}: absent", lambda place, f=file: (place / f).unlink(), file, False)
    for file in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        believed = file in ("training_args.bin", "rng_state.pth")  # copied as they are

        def evil(place: Path, file: str = file) -> None:
            (place / file).write_bytes(pickle.dumps(_Evil(place.parent / RAN)))

        def hidden(place: Path, file: str = file) -> None:
            torch.save({"state": {}, "param_groups": [], "x": _Evil(place.parent / RAN)}, place / file)

        yield Lie(f"{file}: code", evil, file, believed)
        yield Lie(f"{file}: code in an archive", hidden, file, believed)


def adapter_pickles(folder: Path) -> Iterator[Lie]:
    """An adapter whose weights are a pickle."""

    def tell(place: Path) -> None:
        (place / "adapter_model.safetensors").unlink()
        (place / "adapter_model.bin").write_bytes(pickle.dumps(_Evil(place.parent / RAN)))

    yield Lie("adapter_model.bin: code", tell, "adapter_model.bin", False)
    whole = (folder / "adapter_model.safetensors").read_bytes()
    for count in (0, 8, len(whole) // 2, len(whole) - 1):
        yield Lie(f"adapter_model.safetensors: cut at {count}",
                  lambda place, n=count: (place / "adapter_model.safetensors").write_bytes(whole[:n]),
                  "adapter_model.safetensors", False)  # fmt: skip


MODEL = {"plan": readers.planned, "from_pretrained_resized": readers.loaded, "resize_checkpoint": readers.written}
WEIGHTS = {
    "from_pretrained_resized": readers.loaded,
    "resize_checkpoint": readers.written,
    "load": readers.taken_whole,
}
LOADED = {"plan": readers.planned, "from_pretrained_resized": readers.loaded}
KINDS = [
    Kind("config of ViT", "vit", together(fields("config.json"), added("config.json", MORE_FIELDS)), MODEL),
    Kind("config of BERT", "bert", together(fields("config.json"), added("config.json", MORE_FIELDS)), LOADED),
    Kind("config of Swin", "swin", fields("config.json", depth=2), LOADED),
    Kind("config of CLIP", "clip", fields("config.json", FEW, depth=2), LOADED),
    Kind("config.json is none", "vit", texts("config.json"), {**MODEL, "load": readers.taken_whole}),
    Kind("header of safetensors", "vit", headers, WEIGHTS),
    Kind("metadata of safetensors", "vit", metadata, WEIGHTS),
    Kind("tensors of ViT", "vit", tensors, {**WEIGHTS, "a calibration": readers.calibrated}),
    Kind("tensors of BERT", "bert", tensors, WEIGHTS),
    Kind("model.safetensors is none", "vit", texts("model.safetensors"), WEIGHTS),
    Kind("index of shards", "vit", indices, WEIGHTS),
    Kind("pickled weights", "vit", pickles, WEIGHTS),
    Kind("tokenizer", "bert", together(fields("tokenizer.json", depth=2), fields("tokenizer_config.json", depth=2),
                                       texts("tokenizer.json", "tokenizer_config.json", believed=True)),
         {"save": readers.saved_beside, "use": readers.prepared, "trim": readers.trimmed}),  # fmt: skip
    Kind("image processor", "vit", together(fields("preprocessor_config.json", depth=2),
                                            texts("preprocessor_config.json", believed=True)),
         {"save": readers.saved_beside, "use": readers.prepared}),  # fmt: skip
    Kind("sentence modules", "sentences", together(fields("modules.json", depth=2), fields("1_Pooling/config.json"),
                                                   fields("sentence_bert_config.json"), texts("modules.json", believed=True)),
         {"resize_checkpoint": readers.carried_sentences}),  # fmt: skip
    *(Kind(f"config of a learngene ({kind})", kind, fields("config.json", FEW, depth=2), {"init": readers.initialised})
      for kind in LEARNGENES),
    Kind("weights of a learngene", "sws", headers, {"init": readers.initialised}),
    Kind("adapter", "adapter", together(fields("adapter_config.json"), texts("adapter_config.json"), adapter_pickles),
         {"resize_adapter": readers.carried}),  # fmt: skip
    Kind("Trainer's state", "runs/checkpoint-2", together(fields("trainer_state.json"), texts("trainer_state.json")),
         {"resize_trainer_checkpoint": readers.grown}),  # fmt: skip
    Kind("Trainer's optimizer", "runs/checkpoint-2", states, {"resize_trainer_checkpoint": readers.grown}),
    Kind("comparison", "compared", together(fields("comparison.json", depth=2), texts("comparison.json")),
         {"load": readers.shown}),  # fmt: skip
    Kind("jobs of a comparison", "compared", texts("jobs/settings.json", "jobs/source.json", believed=True),
         {"compare": readers.compared_again}),  # fmt: skip
]  # fmt: skip
