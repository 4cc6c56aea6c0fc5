"""Sandwich training: a descendant of a drawn size beside the auxiliary model, or in its place."""

from __future__ import annotations

import torch

from testing.training import trainer_of


def test_another_descendant_is_trained_beside_the_whole(tmp_path):
    trainer = trainer_of("vit", "wave", tmp_path, sandwich_weight=1.0, sandwich_min_layers=1, sandwich_widths=[8, 24])
    drawn = []
    original = trainer.student.sample_target

    def spy(*args):
        target = original(*args)
        drawn.append((target.depth, target.anatomy.sizes["hidden_size"]))
        return target

    trainer.student.sample_target = spy
    trainer.train()
    assert len(drawn) == 4
    assert {d for d, _ in drawn} <= {1, 2}
    assert {w for _, w in drawn} <= {8, 24}


def test_a_drawn_descendant_is_trained_alone(tmp_path):
    more = {"sandwich_weight": 1.0, "auxiliary_weight": 0.0, "sandwich_min_layers": 1, "sandwich_max_layers": 1}
    trainer = trainer_of("vit", "condensed", tmp_path, **more)
    depths = []
    original = trainer.student.run

    def spy(target, *args, **kwargs):
        depths.append(target.depth)
        return original(target, *args, **kwargs)

    trainer.student.run = spy
    before = {n: p.detach().clone() for n, p in trainer.student.named_parameters()}
    trainer.train()
    assert depths == [1] * 4
    assert [n for n, p in trainer.student.named_parameters() if not torch.equal(p, before[n])]
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0
    assert set(depths[4:]) == {trainer.student.target().depth}  # what is judged is the auxiliary model


def test_the_auxiliary_model_takes_its_turn_where_it_is_not_trained_anyway(tmp_path):
    for weight, deepest in ((1.0, 2), (0.0, 3)):
        trainer = trainer_of(
            "vit", "sws", tmp_path, sandwich_weight=1.0, sandwich_min_layers=1, auxiliary_weight=weight
        )
        drawn = set()
        for step in range(40):
            trainer.state.global_step = step
            drawn.add(trainer._other_target().depth)
        assert drawn == set(range(1, deepest + 1))
