"""Learngenes of hierarchies in `LearngeneTrainer`: every stage has a depth of its own."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import AutoLearngene, LearngeneTrainer, LearngeneTrainingArguments
from hf_learngene.errors import InvalidSizeError, UnknownOptionError
from hf_learngene.learngenes.sampling import depths_to_draw, drawn_depths
from testing.families import inputs_for
from testing.hierarchies import tiny_hierarchy, tiny_swin
from testing.training import Images


@pytest.mark.parametrize(
    ("kind", "family"), [("sws", "swin"), ("tleg", "convnext"), ("wave", "segformer"), ("sws", "pvt_v2")]
)
def test_a_training_step_moves_what_is_shared(kind, family, tmp_path):
    learngene = AutoLearngene.from_ancestry(tiny_hierarchy(family, dtype=torch.float32), kind)
    teacher = tiny_hierarchy(family, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in learngene.state_dict().items()}
    args = LearngeneTrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, sandwich_weight=0.5, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    side = inputs_for(teacher)["pixel_values"].shape[-1]
    LearngeneTrainer(learngene.train(), args, teacher, train_dataset=Images(8, side)).train()
    after = learngene.state_dict()
    still = [n for n, tensor in before.items() if n.startswith("shared.") and torch.equal(tensor, after[n])]
    assert [n for n in still if "bias" not in n and "relative" not in n] == []
    assert (
        learngene.eval().initialize()(**{k: v.float() for k, v in inputs_for(teacher).items()}).logits.isfinite().all()
    )


def test_sandwich_depths_are_drawn_for_each_stage_in_whole_pairs():
    learngene = AutoLearngene.from_ancestry(tiny_swin(), "sws")
    generator = torch.Generator().manual_seed(0)
    drawn = {tuple(depths_of(learngene.sample_target(generator, (None, None), None))) for _ in range(40)}
    assert drawn == {(2, 2, 2, 2), (2, 2, 4, 2)}  # never the auxiliary model's own
    deeper = depths_to_draw(learngene.anatomy, (2, 4))
    assert list(deeper.values()) == [[2, 4]] * 4
    assert len({tuple(drawn_depths(deeper, learngene.anatomy.sizes, generator).values()) for _ in range(200)}) == 16
    convnext = AutoLearngene.from_ancestry(tiny_hierarchy("convnext", depths=[1, 1, 3, 1]), "sws")
    found = {tuple(depths_of(convnext.sample_target(generator, (None, None), None))) for _ in range(20)}
    assert found == {(1, 1, 1, 1), (1, 1, 2, 1)}
    shallow = AutoLearngene.from_ancestry(tiny_hierarchy("convnext", depths=[1, 1, 1, 1]), "sws")
    with pytest.raises(InvalidSizeError, match="nothing to draw"):
        shallow.check_samples((None, None), None)
    with pytest.raises(InvalidSizeError, match="widths of a hierarchy"):
        learngene.check_samples((None, None), [4])


def depths_of(target) -> list[int]:
    return list(target.config.depths)


def test_hidden_states_of_several_widths_are_not_compared(tmp_path):
    learngene = AutoLearngene.from_ancestry(tiny_swin(dtype=torch.float32), "sws")
    args = LearngeneTrainingArguments(str(tmp_path), hidden_states_weight=1.0, use_cpu=True, report_to="none")
    with pytest.raises(UnknownOptionError, match="one width, and the stages of a hierarchy"):
        LearngeneTrainer(learngene, args, tiny_swin(dtype=torch.float32), train_dataset=Images(4, 64))
