"""What each loss measures, and what it does not see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_learngene.training import losses


def test_soft_logits_are_a_divergence_per_item():
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    wanted = 4.0 * F.kl_div((student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="batchmean")
    assert losses.soft_logit_loss(student, teacher, 2.0).mean() == pytest.approx(float(wanted), rel=1e-5)
    assert losses.soft_logit_loss(teacher, teacher).abs().max() < 1e-6


def test_hard_labels_are_the_teachers_choice():
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    wanted = F.cross_entropy(student, teacher.argmax(-1))
    assert losses.hard_label_loss(student, teacher).mean() == pytest.approx(float(wanted))


def test_hidden_states_of_the_same_model_are_no_distance_apart():
    states = [torch.randn(2, 5, 8) for _ in range(4)]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert losses.hidden_state_loss(states, states, mask).abs().max() == 0
    other = [s.clone() for s in states]
    other[2][0, 3:] += 5  # padding does not count
    assert losses.hidden_state_loss(states, other, mask).abs().max() == 0
    other[2][0, 0] += 2
    assert losses.hidden_state_loss(states, other, mask)[0] == pytest.approx(4 / 3 / 4)


def test_relations_do_not_see_width_nor_rotation():
    vectors = [torch.randn(2, 5, 12) for _ in range(3)]
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    turned = [torch.cat([v[..., :6] @ turn, v[..., 6:]], -1) for v in vectors]
    assert losses.relation_loss(vectors, turned, None, 2).abs().max() < 1e-5
    assert losses.relation_loss(vectors, [torch.randn(2, 5, 24) for _ in range(3)], None, 2).min() > 0
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    other = [v.clone() for v in vectors]
    for v in other:
        v[0, 3:] += 5
    assert losses.relation_loss(vectors, other, mask, 2)[0].abs() < 1e-5
