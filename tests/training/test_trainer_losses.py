"""What the trainer calls the loss, against the same loss written out here in plain torch, with nothing of `training.losses`."""

from __future__ import annotations

import math

import pytest
import torch

from hf_learngene import errors
from testing.families import tiny_model
from testing.training import Images, teacher_of, trainer_of


ALPHA, HEAT = 0.3, 2.5


def batch_of(trainer, start=0, stop=4):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(start, stop)])


def loss_of(trainer, batch, **more):
    trainer.student.train()
    return float(trainer.compute_loss(trainer.student, dict(batch), **more).detach())


def run(model, batch, **more):
    """Outputs of a plain model, without labels."""
    with torch.no_grad():
        return model.eval()(**{k: v for k, v in batch.items() if k != "labels"}, **more)


def divergence(mine, theirs, heat=1.0):
    """KL(teacher || student) of each row, at a temperature."""
    p, q = (torch.softmax(x.double() / heat, -1) for x in (theirs, mine))
    return (p * (p / q).log()).sum(-1) * heat**2


def choice(mine, wanted):
    """Minus the log probability of the wanted class, of each row."""
    return -torch.softmax(mine.double(), -1)[torch.arange(len(mine)), wanted].log()


def soft(mine, theirs, labels, alpha=ALPHA, heat=HEAT):
    return (1 - alpha) * choice(mine, labels) + alpha * divergence(mine, theirs, heat)


def mean_over(values, mask):
    """Of each example, over its tokens that are no padding."""
    return (values * mask).sum(-1) / mask.sum(-1)


@pytest.mark.parametrize("data", ["vit", "bert"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_soft_logits_and_labels(data, alpha, tmp_path):
    trainer = trainer_of(data, "plain", tmp_path, alpha=alpha, temperature=HEAT)
    batch = batch_of(trainer)
    mine, theirs = (run(m, batch).logits for m in (trainer.student, trainer.teacher.model))
    wanted = soft(mine, theirs, batch["labels"], alpha)
    assert loss_of(trainer, batch) == pytest.approx(float(wanted.mean()), rel=1e-5)
    # a share of a larger batch
    assert loss_of(trainer, batch, num_items_in_batch=torch.tensor(10)) == pytest.approx(
        float(wanted.sum()) / 10, rel=1e-5
    )


def test_hard_decisions_and_labels(tmp_path):
    trainer = trainer_of("vit", "plain", tmp_path, alpha=ALPHA, distillation="hard", temperature=HEAT)
    batch = batch_of(trainer)
    mine, theirs = (run(m, batch).logits for m in (trainer.student, trainer.teacher.model))
    wanted = (1 - ALPHA) * choice(mine, batch["labels"]) + ALPHA * choice(mine, theirs.argmax(-1))
    assert loss_of(trainer, batch) == pytest.approx(float(wanted.mean()), rel=1e-5)


@pytest.mark.parametrize("distillation", ["soft", "hard"])
def test_each_masked_token_counts_once(distillation, tmp_path):
    trainer = trainer_of("mlm", "plain", tmp_path, alpha=ALPHA, temperature=HEAT, distillation=distillation)
    batch = batch_of(trainer)
    kept = batch["labels"] != -100
    assert kept.sum(-1).tolist() == [1, 2, 3, 4]
    mine, theirs = (run(m, batch).logits[kept] for m in (trainer.student, trainer.teacher.model))
    labels = batch["labels"][kept]
    if distillation == "soft":
        wanted = soft(mine, theirs, labels)
    else:
        wanted = (1 - ALPHA) * choice(mine, labels) + ALPHA * choice(mine, theirs.argmax(-1))
    assert loss_of(trainer, batch) == pytest.approx(float(wanted.mean()), rel=1e-5)
    parts = [loss_of(trainer, batch_of(trainer, *ends), num_items_in_batch=10) for ends in ((0, 1), (1, 4))]
    assert sum(parts) == pytest.approx(float(wanted.mean()), rel=1e-5)


@pytest.mark.parametrize(("learngene", "weight"), [("sws", 1.0), ("wave", 1.0), ("wave", 0.4), ("wave", 0.0)])
def test_the_other_descendant_adds_its_loss(learngene, weight, tmp_path):
    sandwich = {"sandwich_weight": 0.7, "auxiliary_weight": weight, "sandwich_min_layers": 1, "sandwich_max_layers": 1}
    trainer = trainer_of("vit", learngene, tmp_path, alpha=ALPHA, temperature=HEAT, **sandwich)
    batch = batch_of(trainer)
    theirs = run(trainer.teacher.model, batch).logits
    whole, small = (run(trainer.student.initialize(num_hidden_layers=n), batch).logits for n in (3, 1))
    parts = [float(soft(mine, theirs, batch["labels"]).mean()) for mine in (whole, small)]
    assert loss_of(trainer, batch) == pytest.approx(weight * parts[0] + 0.7 * parts[1], rel=1e-5)


@pytest.mark.parametrize("width", [24, 48])
def test_hidden_states_of_matching_layers(width, tmp_path):
    teacher = teacher_of("bert", hidden_size=width, num_hidden_layers=5)
    trainer = trainer_of("bert", "plain", tmp_path, teacher, alpha=0.0, hidden_states_weight=0.4)
    batch = batch_of(trainer)
    mask = batch["attention_mask"].double()
    assert mask.sum(-1).tolist() == [10, 9, 8, 10]
    student, teacher = (run(m, batch, output_hidden_states=True) for m in (trainer.student, trainer.teacher.model))
    distances = []
    for mine, theirs in zip(student.hidden_states, [teacher.hidden_states[i] for i in (0, 2, 3, 5)], strict=True):
        if width != 24:
            linear = trainer.projections.maps["hidden"]
            mine = (mine @ linear.weight.T + linear.bias).detach()  # noqa: PLW2901
        distances.append(mean_over((mine - theirs).double().pow(2).mean(-1), mask))
    wanted = choice(student.logits, batch["labels"]) + 0.4 * torch.stack(distances).mean(0)
    assert loss_of(trainer, batch) == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_hidden_states_weigh_by_masked_tokens(tmp_path):
    trainer = trainer_of("mlm", "plain", tmp_path, alpha=ALPHA, temperature=HEAT, hidden_states_weight=0.4)
    batch = batch_of(trainer)
    kept, mask = batch["labels"] != -100, batch["attention_mask"].double()
    student, teacher = (run(m, batch, output_hidden_states=True) for m in (trainer.student, trainer.teacher.model))
    states = zip(student.hidden_states, teacher.hidden_states, strict=True)
    hidden = torch.stack([mean_over((a - b).double().pow(2).mean(-1), mask) for a, b in states]).mean(0)
    tokens = soft(student.logits[kept], teacher.logits[kept], batch["labels"][kept])
    wanted = (tokens.sum() + 0.4 * (hidden * kept.sum(-1)).sum()) / kept.sum()
    assert loss_of(trainer, batch) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("learngene", ["plain", "tleg"])
def test_relations_of_queries_keys_and_values(learngene, tmp_path):
    teacher = teacher_of("bert", hidden_size=48, num_attention_heads=4, num_hidden_layers=5)
    more = {"relations_weight": 0.6, "relation_heads": 2, "relation_layer": 3}
    trainer = trainer_of("bert", learngene, tmp_path, teacher, alpha=0.0, **more)
    batch = batch_of(trainer)
    plain = trainer.student if learngene == "plain" else trainer.student.initialize()
    labels = choice(run(plain, batch).logits, batch["labels"])
    vectors = [attended(plain, 2, batch), attended(trainer.teacher.model, 3, batch)]
    examples = []
    for i, length in enumerate([10, 9, 8, 10]):  # tokens that are no padding
        each = []
        for mine, theirs in zip(*vectors, strict=True):
            for head in range(2):
                found, wanted = (
                    chunk[i, :length].chunk(2, -1)[head] @ chunk[i, :length].chunk(2, -1)[head].T
                    / math.sqrt(chunk.shape[-1] / 2)
                    for chunk in (mine, theirs)
                )  # fmt: skip
                each.append(divergence(found, wanted).mean())
        examples.append(torch.stack(each).mean())
    wanted = (labels + 0.6 * torch.stack(examples)).mean()
    assert loss_of(trainer, batch) == pytest.approx(float(wanted), rel=1e-5)


def attended(model, layer, batch):
    """q, k and v vectors of a layer of BERT."""
    found = {}
    attention = model.bert.encoder.layer[layer].attention.self
    modules = {name: getattr(attention, name) for name in ("query", "key", "value")}
    hooks = [m.register_forward_hook(lambda _m, _i, o, n=n: found.update({n: o})) for n, m in modules.items()]
    run(model, batch)
    for hook in hooks:
        hook.remove()
    return [found[n] for n in modules]


@pytest.mark.parametrize("width", [24, 48])
def test_features_of_a_teacher_without_a_head(width, tmp_path):
    teacher = tiny_model("vit", "ViTModel", {"hidden_size": width}, dtype=torch.float32, seed=7)
    trainer = trainer_of("vit", "plain", tmp_path, teacher, alpha=ALPHA, distillation="features")
    batch = batch_of(trainer)
    student = run(trainer.student, batch, output_hidden_states=True)
    mine = student.hidden_states[-1]
    if width != 24:
        linear = trainer.projections.maps["features"]
        mine = (mine @ linear.weight.T + linear.bias).detach()
    theirs = run(teacher, batch).last_hidden_state.double()
    theirs = (theirs - theirs.mean(-1, keepdim=True)) / (theirs.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    error = (mine.double() - theirs).abs()
    distance = torch.where(error < 1, error.pow(2) / 2, error - 0.5).mean((1, 2))
    wanted = (1 - ALPHA) * choice(student.logits, batch["labels"]) + ALPHA * distance
    assert loss_of(trainer, batch) == pytest.approx(float(wanted.mean()), rel=1e-5)


# ---- label smoothing


def smoothed(mine, labels, share):
    return (1 - share) * choice(mine, labels) - share * torch.log_softmax(mine.double(), -1).mean(-1)


@pytest.mark.parametrize("teacher", ["default", None])
@pytest.mark.parametrize("data", ["vit", "mlm"])
def test_labels_are_smoothed(data, teacher, tmp_path):
    more = {"label_smoothing_factor": 0.2, "alpha": ALPHA, "temperature": HEAT}
    trainer = trainer_of(data, "plain", tmp_path, teacher, **more)
    batch = batch_of(trainer)
    kept = batch["labels"] != -100
    mine, labels = run(trainer.student, batch).logits[kept], batch["labels"][kept]
    wanted = smoothed(mine, labels, 0.2)
    trainer.student.eval()
    assert float(trainer.compute_loss(trainer.student, dict(batch)).detach()) == pytest.approx(
        float(wanted.mean()), rel=1e-5
    )
    if teacher:
        theirs = run(trainer.teacher.model, batch).logits[kept]
        wanted = (1 - ALPHA) * wanted + ALPHA * divergence(mine, theirs, HEAT)
    assert loss_of(trainer, batch) == pytest.approx(float(wanted.mean()), rel=1e-5)
    count = int(kept.sum())
    parts = [loss_of(trainer, batch_of(trainer, *ends), num_items_in_batch=count) for ends in ((0, 1), (1, 4))]
    assert sum(parts) == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_smoothing_reaches_the_other_descendant(tmp_path):
    more = {"sandwich_weight": 0.7, "sandwich_min_layers": 1, "sandwich_max_layers": 1, "label_smoothing_factor": 0.2}
    trainer = trainer_of("vit", "sws", tmp_path, None, **more)
    batch = batch_of(trainer)
    made = [run(trainer.student.initialize(num_hidden_layers=n), batch).logits for n in (3, 1)]
    whole, small = (float(smoothed(m, batch["labels"], 0.2).mean()) for m in made)
    assert loss_of(trainer, batch) == pytest.approx(whole + 0.7 * small, rel=1e-5)


class Many(Images):
    """Several classes of each image."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "labels": torch.eye(5)[self.labels[index]]}


def answers():
    return tiny_model("bert", "BertForQuestionAnswering", dtype=torch.float32)


def numbers():
    model = teacher_of("bert")
    model.config.num_labels = 1
    return model


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: trainer_of("bert", "", p, None, model=answers(), label_smoothing_factor=0.1), errors.UnknownOptionError,
         "BertForQuestionAnswering takes start_positions, end_positions. Set it to 0"),
        (lambda p: trainer_of("bert", "", p, None, model=numbers(), label_smoothing_factor=0.1), errors.UnknownOptionError,
         r"one class out of several; .* takes labels \(regression\)"),
        (lambda p: trainer_of("vit", "plain", p, None, train_dataset=Many(), label_smoothing_factor=0.1).train(),
         errors.TrainingDataError, "labels that are one class"),
        (lambda p: trainer_of("vit", "plain", p, compute_loss_func=lambda *a, **k: 0), errors.UnknownOptionError,
         "compute_loss_func would take the place of the teacher's loss too. Override"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_smoothed_and_losses_of_ones_own_are_refused(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make(tmp_path)


# ---- widths


def test_features_are_not_compared_at_widths_of_a_sandwich(tmp_path):
    teacher = tiny_model("vit", "ViTModel", dtype=torch.float32)
    more = {"distillation": "features", "sandwich_weight": 0.5, "sandwich_min_layers": 1, "max_steps": 1}
    with pytest.raises(errors.UnknownOptionError, match=r"student's width \(24\); sandwich_widths draws 8"):
        trainer_of("vit", "wave", tmp_path, teacher, sandwich_widths=[24, 8], **more)
    trainer_of("vit", "wave", tmp_path, teacher, sandwich_widths=[24], **more).train()


def test_hidden_states_and_relations_are_the_wholes_alone(tmp_path):
    sandwich = {"sandwich_weight": 0.7, "sandwich_min_layers": 1, "sandwich_max_layers": 1, "sandwich_widths": [8]}
    deep = {"hidden_states_weight": 0.4, "relations_weight": 0.6, "relation_heads": 3}
    teacher = teacher_of("vit", hidden_size=48)
    losses = [
        loss_of(trainer, batch_of(trainer))
        for more in ({}, sandwich, deep, {**sandwich, **deep})
        for trainer in [trainer_of("vit", "wave", tmp_path, teacher, alpha=ALPHA, temperature=HEAT, **more)]
    ]
    plain, beside, deeper, both = losses
    assert beside > plain
    assert deeper > plain
    assert both - deeper == pytest.approx(beside - plain, rel=1e-4)
