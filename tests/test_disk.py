"""Files that a checkpoint may not have, and places for temporary ones that are none: told before anything waits or is written."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile

import pytest
import torch
from transformers import BertTokenizer, TrainingArguments

from hf_learngene import AutoLearngene, plan, resize, resize_adapter
from hf_learngene.calibration.processing import processor_of
from hf_learngene.disk import claim, release, scratch
from hf_learngene.errors import CheckpointError, InvalidSizeError, OutputError, naming
from hf_learngene.hub.load import load_whole
from hf_learngene.training.scratch import scratch_folder
from testing.families import tiny_model


pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_checkpoint_with_a_pipe_or_a_device_is_refused(bert_folder, file, make):
    BertTokenizer({word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}).save_pretrained(
        bert_folder
    )
    (bert_folder / file).unlink()
    make(bert_folder / file)
    for verb in (
        lambda: plan(bert_folder, hidden_size=16),
        lambda: load_whole(bert_folder),
        lambda: AutoLearngene.from_pretrained(bert_folder),
        lambda: processor_of(bert_folder, "input_ids"),
        lambda: resize_adapter(bert_folder, tiny_resized()),
    ):
        with pytest.raises(CheckpointError, match=rf"{file}` is no file but a pipe, a device"):
            verb()


def tiny_resized():
    return resize(tiny_model("bert", "BertForMaskedLM", dtype=torch.float32), hidden_size=48)


def test_a_training_without_a_place_for_its_checkpoints_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(OutputError, match="No temporary folder can be written: .*TMPDIR="), scratch_folder(args):
        pytest.fail("there is one")


def test_temporary_folders_of_dead_runs_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("learngene_push_dead", "learngene_push_held", "learngene_other_dead", "push"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("half")
    (tmp_path / "learngene_push_link").symlink_to("push")
    held = claim(tmp_path / "learngene_push_held")
    try:
        with scratch("push") as folder, scratch("push") as second:
            assert folder != second
            assert folder.is_dir()
    finally:
        release(held)
    kept = ["learngene_other_dead", "learngene_push_held", "learngene_push_link", "push"]
    assert sorted(os.listdir(tmp_path)) == kept
    assert (tmp_path / "push" / "weights").exists()


@pytest.mark.parametrize("kind", [InvalidSizeError, CheckpointError, OutputError])
def test_an_error_names_the_place_once(kind):
    with pytest.raises(kind, match="^`my-vit`: no$"), naming("my-vit"), naming("my-vit"):
        raise kind("no")
    with pytest.raises(ValueError, match="^no$"), naming("my-vit"):
        raise ValueError("no")


FAULTS = """
import resource, torch
from hf_learngene.disk import reused_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(4_000_000) + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
with reused_memory():
    faults()
    reused = faults()
print(usual, reused, faults())
"""


@pytest.mark.skipif(not platform.libc_ver()[0].startswith("glibc"), reason="another allocator")
def test_freed_tensors_leave_their_memory_to_the_next_inside_the_block_alone():
    made = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    usual, reused, afterwards = map(int, made.stdout.split())
    assert reused < usual / 10
    assert reused < afterwards / 10
