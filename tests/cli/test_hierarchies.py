"""Sizes of a hierarchy on the command line."""

from __future__ import annotations

import torch

from testing.hierarchies import tiny_hierarchy


def test_the_command_line_takes_lists(run, tmp_path):
    tiny_hierarchy("swin", dtype=torch.float32).save_pretrained(tmp_path / "swin")
    shown = run("plan", str(tmp_path / "swin"), "--size", "depths=1,1,2,2", "--method", "weight_selection")
    assert shown.exit_code == 0, shown.output
    assert "num_hidden_layers [2, 1, 3, 2] → [1, 1, 2, 2]" in shown.output
    wrong = run("plan", str(tmp_path / "swin"), "--size", "depths=1,1,2")
    assert wrong.exit_code == 2
    assert "depths is a list of 4 whole numbers" in wrong.output + wrong.stderr
    layers = "layer_map=[[0,1],[0],[0],[0,1]]"
    made = run("plan", str(tmp_path / "swin"), "--method", "layers", "--option", layers)
    assert made.exit_code == 0, made.output
    assert "num_hidden_layers [2, 1, 3, 2] → [2, 1, 1, 2]" in made.output
