"""The example scripts under `torchrun` and bf16, unchanged; what is known of the configs in `examples/`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from peft.utils import load_peft_weights
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_learngene import AutoLearngene
from testing import ROOT
from testing.checkpoints import save_checkpoint, write_images, write_sentences
from testing.families import load_example
from testing.launched import distilled, fitted, learned


CONFIGS = ROOT / "examples" / "accelerate"
# Learngenes that are fitted on shared examples: a family and options of each kind.
FITTED = {
    "condensed": ("bert", {"intermediate_size": 24}),
    "sws": ("vit", {"num_stages": 2}),
    "wave": ("bert", {"template_size": 8, "template_share": 0.7}),
    "fine": ("vit", {"num_groups": 2}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with tiny checkpoints and tiny data."""
    folder = tmp_path_factory.mktemp("data")
    save_checkpoint(folder / "vit", "vit", "ViTForImageClassification", {"num_labels": 2})
    save_checkpoint(folder / "bert", "bert", "BertForSequenceClassification")
    write_images(folder / "images.parquet")
    write_sentences(folder / "sentences.jsonl")
    return folder


def arguments(script: str, data: Path, output: Path, batch: int = 4, **more: object) -> list[str]:
    """The command line of an example: four steps on tiny data."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 4}
    vision = {"model_name_or_path": data / "vit", "train_file": data / "images.parquet"}
    text = {"model_name_or_path": data / "bert", "train_file": data / "sentences.jsonl"}
    # 12 of 16 examples are left to train on: whole batches, or two processes would fill up the last one
    split = {"do_train": True, "validation_split": 0.25, "cache_dir": data / "cache"}
    own = {
        "run_image_classification_resized.py": {**vision, **sizes, **split},
        "run_text_classification_resized.py": {**text, **sizes, **split},
        "finetune_lora.py": {**text, **sizes, "lora_rank": 2},
        "build_learngene.py": {"teacher": data / "vit", "train_file": vision["train_file"], "learngene_type": "tleg"},
        "finetune_from_learngene.py": {"learngene": data / "learngene", "train_file": vision["train_file"]},
    }
    common = {
        "output_dir": output,
        "max_steps": 4,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-3,
        "optim": "adamw_torch",
        "adam_epsilon": 1e-4,  # a key bias has no gradient but rounding, which AdamW would blow up
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return [f"--{name}={value}" for name, value in {**own[script], **common, **more}.items()]


def shrinking(data: Path, kind: str, output: Path) -> list[str]:
    """The command line of a shrink without training, in float64: two processes part by rounding alone."""
    given = {"model_name_or_path": data / kind, "output_dir": output, "intermediate_size": 24, "dtype": "float64"}
    return [*(f"--{name}={value}" for name, value in given.items()), "--use_cpu"]


def launch(jobs: list, folder: Path) -> None:
    """Runs the jobs one after another in two processes. On the CPU `accelerate launch` starts but one, and on GPUs just this."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, "-m", *launcher, "-m", "testing.launched", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]


def same(first: dict, second: dict, tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=tolerance, msg=name)


def fsdp2_environment(*options: str) -> dict[str, str]:
    """What `accelerate launch` tells its processes."""
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / "fsdp2.yaml"), *options, "script.py"])
    made = prepare_multi_gpu_env(_validate_launch_command(args)[0])
    return {name: value for name, value in made.items() if name.startswith("FSDP_")}


@pytest.mark.slow
def test_every_script_in_two_processes_is_the_script_in_one_and_resumes_what_another_process_began(data, tmp_path):
    """One launch for all: processes that import torch and transformers take longer to start than what they do here."""
    classes = {"run_image_classification_resized.py": AutoModelForImageClassification,
               "run_text_classification_resized.py": AutoModelForSequenceClassification}  # fmt: skip
    jobs: list = []
    for script in (*classes, "finetune_lora.py"):
        saving = {"save_strategy": "steps", "save_steps": 2} if script in classes else {}
        load_example(script.removesuffix(".py")).main(arguments(script, data, tmp_path / "one" / script, **saving))
        jobs.append([script, arguments(script, data, tmp_path / "two" / script, batch=2)])
    for script in classes:  # the processes that go on are new ones, and so is their model
        other = {"resume_from_checkpoint": tmp_path / "one" / script / "checkpoint-2", "method": "random"}
        jobs.append([script, arguments(script, data, tmp_path / "resumed" / script, batch=2, **other)])
    learngene, tuned = data / "learngene", tmp_path / "tuned"
    jobs.append(["build_learngene.py", arguments("build_learngene.py", data, learngene, batch=2)])
    jobs.append(
        ["finetune_from_learngene.py", arguments("finetune_from_learngene.py", data, tuned, num_hidden_layers=5)]
    )
    for kind in ("vit", "bert"):
        load_example("resize_calibrated").main(shrinking(data, kind, tmp_path / "one" / kind))
        jobs.append(["resize_calibrated.py", shrinking(data, kind, tmp_path / "two" / kind)])
    for kind, (family, options) in FITTED.items():
        fitted(kind, family, options, str(tmp_path / "one" / kind))
        jobs.append(["fitted", [kind, family, options, str(tmp_path / "two" / kind)]])
    distilled(8, str(tmp_path / "one" / "distilled"))
    jobs.append(["distilled", [4, str(tmp_path / "two" / "distilled")]])
    learned(8, str(tmp_path / "one" / "learned"))
    jobs.append(["learned", [4, str(tmp_path / "two" / "learned")]])
    image = fsdp2_environment("--fsdp_transformer_layer_cls_to_wrap", "ViTLayer")
    jobs.append(["fsdp2", ["vit", "ViTForImageClassification", image]])
    jobs.append(["fsdp2", ["bert", "BertForSequenceClassification", fsdp2_environment()]])
    launch(jobs, tmp_path)

    for script, auto in classes.items():
        one, two, resumed = (auto.from_pretrained(tmp_path / runs / script) for runs in ("one", "two", "resumed"))
        assert one.config.hidden_size == 48
        same(one.state_dict(), two.state_dict(), 2e-4)
        same(one.state_dict(), resumed.state_dict(), 2e-4)
    one, two = (load_peft_weights(str(tmp_path / runs / "finetune_lora.py"), device="cpu") for runs in ("one", "two"))
    assert any("lora_B" in name and tensor.abs().max() > 0 for name, tensor in one.items())
    same(one, two, 2e-4)
    assert AutoModelForImageClassification.from_pretrained(tuned).config.num_hidden_layers == 5
    for kind, auto in zip(("vit", "bert"), classes.values(), strict=True):
        one, two = (auto.from_pretrained(tmp_path / runs / kind, dtype="auto") for runs in ("one", "two"))
        assert one.dtype == torch.float64
        assert one.config.intermediate_size == 24
        same(one.state_dict(), two.state_dict(), 1e-10)
    one, two = (
        AutoModelForImageClassification.from_pretrained(tmp_path / runs / "distilled") for runs in ("one", "two")
    )
    assert one.config.learngene["distillation"]["steps"] == two.config.learngene["distillation"]["steps"] > 0
    same(one.state_dict(), two.state_dict(), 2e-4)
    one, two = (
        AutoModelForImageClassification.from_pretrained(tmp_path / runs / "learned") for runs in ("one", "two")
    )
    assert one.config.learngene == {**two.config.learngene, "weights": one.config.learngene["weights"]}
    same(one.state_dict(), two.state_dict(), 2e-4)
    for kind in FITTED:
        one, two = (AutoLearngene.from_pretrained(tmp_path / runs / kind) for runs in ("one", "two"))
        assert one.config.options() == two.config.options()
        # of templates and factors, signs and order are free; what is made of them is not, but for templates that hold next to
        # nothing, which rounding makes
        found = (each.initialize(calibration=None).state_dict() for each in (one, two))
        same(*found, 1e-4 if kind == "wave" else 1e-8)


@pytest.mark.parametrize("script", ["run_image_classification_resized.py", "build_learngene.py"])
def test_bf16_trains_float32_weights(script, data, tmp_path):
    example = load_example(script.removesuffix(".py"))
    auto = AutoLearngene if script == "build_learngene.py" else AutoModelForImageClassification
    states = []
    for name, options in (("float32", {}), ("bf16", {"bf16": True})):
        example.main(arguments(script, data, tmp_path / name, **options))
        states.append(auto.from_pretrained(tmp_path / name).state_dict())
    assert all(tensor.dtype == torch.float32 for tensor in states[1].values() if tensor.is_floating_point())
    apart = max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])
    assert 0 < apart < 0.1


# ---- configs for more than this machine has


def test_every_key_of_a_config_is_known_to_accelerate():
    files = sorted(CONFIGS.glob("*.yaml"))
    assert [file.stem for file in files] == ["deepspeed_zero2", "fsdp2"]
    for file in files:
        load_config_from_file(str(file))  # refuses unknown keys of the first level
        known = vars(launch_command_parser().parse_args(["script.py"]))
        for section in ("fsdp_config", "deepspeed_config"):
            assert set(yaml.safe_load(file.read_text()).get(section, {})) <= known.keys(), file.name


def test_the_fsdp2_config_means_what_it_says(monkeypatch):
    for name, value in fsdp2_environment("--fsdp_transformer_layer_cls_to_wrap", "ViTLayer").items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.transformer_cls_names_to_wrap == ["ViTLayer"]  # the command line goes before the file
    assert fsdp2_environment()["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "BertLayer"


def test_the_deepspeed_config_means_what_it_says(monkeypatch):
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / "deepspeed_zero2.yaml"), "script.py"])
    args, config, _ = _validate_launch_command(args)
    assert args.use_deepspeed
    args.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
    for name, value in prepare_deepspeed_cmd_env(args)[1].items():
        if "DEEPSPEED_" in name or name == "ACCELERATE_MIXED_PRECISION":
            monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == 2
    assert not plugin.zero3_init_flag
    # what Trainer fills in from its own arguments
    assert {
        plugin.deepspeed_config[k] for k in ("train_batch_size", "gradient_accumulation_steps", "gradient_clipping")
    } == {"auto"}
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
