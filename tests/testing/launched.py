"""Runs inside `torchrun` or `accelerate launch`: example scripts as `python script.py` runs them, and a step under FSDP2."""

from __future__ import annotations

import copy
import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.elastic.multiprocessing.errors import record

from hf_learngene import AutoLearngene, distill, resize
from testing import ROOT
from testing.examples import examples_for
from testing.families import inputs_for, tiny_model
from testing.training import NO_DROPOUT


EXAMPLES = ROOT / "examples"
NAMES = {"vit": "ViTForImageClassification", "bert": "BertForMaskedLM"}


def run(script: str, argv: list[str]) -> None:
    sys.argv = [str(EXAMPLES / script), *argv]
    runpy.run_path(sys.argv[0], run_name="__main__")


def shard(plugin: Any, model: torch.nn.Module) -> torch.nn.Module:
    """What Accelerate does to a model under FSDP2, but on the CPU, where its `Accelerator` itself falls back to DDP."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    mesh = distributed.init_device_mesh("cpu", (distributed.get_world_size(),), mesh_dim_names=("shards",))
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=mesh,
        parallelism_config=SimpleNamespace(fsdp_dim_names=("shards",)),
        mixed_precision="no",
        is_main_process=distributed.get_rank() == 0,
        device=torch.device("cpu"),
    )
    return fsdp2_prepare_model(accelerator, model)


def step(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**inputs).logits.square().mean().backward()
    optimizer.step()
    return model


def fsdp2_step(kind: str, name: str, environment: dict[str, str]) -> None:
    """A step of a resized model, sharded over the processes, must be the step of one process on the whole batch."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.tensor import DTensor

    os.environ.update(environment)
    model = resize(
        tiny_model(kind, name, NO_DROPOUT, torch.float32), hidden_size=48, num_hidden_layers=4, method="lemon"
    )
    whole = inputs_for(model, batch=2 * distributed.get_world_size())
    mine = {key: value[2 * distributed.get_rank() :][:2] for key, value in whole.items()}
    sharded = shard(FullyShardedDataParallelPlugin(), copy.deepcopy(model))
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    step(sharded, mine)
    gathered = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    wanted = step(model, whole).state_dict()
    if distributed.get_rank() == 0:
        assert gathered.keys() == wanted.keys()
        for key, value in gathered.items():
            torch.testing.assert_close(value, wanted[key], rtol=0, atol=1e-5, msg=f"{name}: {key}")


def fitted(kind: str, family: str, options: dict[str, Any], folder: str) -> None:
    """A learngene of a tiny model in float64, fitted on examples that the processes share."""
    PartialState(cpu=True)
    source = tiny_model(family, NAMES[family])
    looks = {"calibration": examples_for(source, 48), "calibration_top_up": False}
    learngene = AutoLearngene.from_ancestry(source, kind, **options, **looks)
    if PartialState().is_main_process:
        learngene.save_pretrained(folder)


def distilled(batch: int, folder: str) -> None:
    """A tiny ViT, shrunk and distilled for a few steps, on a share of each batch."""
    source = tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, torch.float32)
    small = resize(source, num_hidden_layers=2, method="weight_selection")
    # AdamW would blow up what is nothing but rounding (a key bias has no gradient)
    given = {"max_steps": 6, "learning_rate": 1e-3, "adam_epsilon": 1e-4, "use_cpu": True, "disable_tqdm": True}
    made = distill(small, source, examples_for(source, 64), per_device_train_batch_size=batch, **given)
    if PartialState().is_main_process:
        made.save_pretrained(folder)


def learned(batch: int, folder: str) -> None:
    """A tiny ViT, grown by maps that are learned for a few steps, on a share of each batch."""
    source = tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, torch.float32)
    given = {"max_steps": 4, "adam_epsilon": 1e-4, "use_cpu": True, "disable_tqdm": True}
    training = {**given, "per_device_train_batch_size": batch}
    data = examples_for(source, 64, labels=True)
    made = resize(source, method="ligo", hidden_size=48, num_hidden_layers=4, train_dataset=data, training=training)
    if PartialState().is_main_process:
        made.save_pretrained(folder)


JOBS = {"fsdp2": fsdp2_step, "fitted": fitted, "distilled": distilled, "learned": learned}


@record  # the launcher then tells which process failed first, and why
def main() -> None:
    """`python -m testing.launched JOBS`: a JSON list of `[script, arguments]`, or of one of `JOBS` with its arguments."""
    for what, arguments in json.loads(Path(sys.argv[1]).read_text()):
        JOBS[what](*arguments) if what in JOBS else run(what, arguments)
        PartialState().wait_for_everyone()  # what the first process still writes, the next job of the second may read
    PartialState().destroy_process_group()  # a process that leaves its peers without a word may be aborted on the way out


if __name__ == "__main__":
    main()
