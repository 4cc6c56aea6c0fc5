"""The trainer's invariants: however a batch is split, over steps or processes, and however often it is cut, it is "
"one training."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, ViTImageProcessorPil

from hf_learngene import AutoLearngene, LearngeneTrainingArguments, errors
from hf_learngene.training import Teacher, losses
from testing import ROOT
from testing.families import tiny_model
from testing.training import DATA, Images, Texts, losses_of, student_of, teacher_of, train, trainer_of


KINDS = ["sws", "tleg", "fine", "wave"]


def weights(path):
    return torch.load(path / "weights.pt", weights_only=True)


def close(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    return max(float((first[k] - second[k]).abs().max()) for k in first) <= tolerance


# ---- one training, however it is run


@pytest.mark.parametrize("data", ["vit", "bert", "mlm"])
@pytest.mark.parametrize("learngene", ["wave", "plain"])
def test_four_small_batches_are_one_large(data, learngene, tmp_path):
    extra = {"sandwich_weight": 0.5} if learngene == "wave" else {"hidden_states_weight": 0.3}
    runs = []
    for name, arguments in (
        ("one", {"per_device_train_batch_size": 8}),
        ("four", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
    ):
        trainer = trainer_of(data, learngene, tmp_path / name, **arguments, **extra)
        trainer.train()
        runs.append((losses_of(trainer), trainer.student.state_dict()))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-4)
    assert close(runs[0][1], runs[1][1], 2e-4)


def launch(jobs, folder, processes=1):
    """Trains in new processes, one launch for all: most of its seconds are imports."""
    folder.mkdir(exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    launcher = (
        [sys.executable]
        if processes == 1
        else [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    command = [*launcher, "-m", "testing.training", str(folder / "jobs.json")]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    cases = [
        ("vit", "wave", {"sandwich_weight": 0.5, "sandwich_min_layers": 1, **saving}),
        (
            "vit",
            "condensed",
            {"sandwich_weight": 0.5, "sandwich_min_layers": 1, "sandwich_widths": [16, 24], **saving},
        ),
        (
            "bert",
            "condensed",
            {
                "sandwich_weight": 1.0,
                "auxiliary_weight": 0.0,
                "sandwich_min_layers": 1,
                "sandwich_max_layers": 3,
                **saving,
            },
        ),
        ("bert", "plain", {"hidden_states_weight": 0.3, "relations_weight": 0.2, "relation_heads": 3, **saving}),
    ]
    folders = [tmp_path / f"{data}-{learngene}" for data, learngene, _ in cases]
    for (data, learngene, extra), folder in zip(cases, folders, strict=True):
        train(data, learngene, folder / "one", per_device_train_batch_size=8, **extra)
    jobs = [
        [data, learngene, str(folder / "two"), {"per_device_train_batch_size": 4, **extra}]
        for (data, learngene, extra), folder in zip(cases, folders, strict=True)
    ]
    launch(jobs, tmp_path / "launch", processes=2)
    for folder in folders:
        one, two = (json.loads((folder / n / "losses.json").read_text()) for n in ("one", "two"))
        assert one == pytest.approx(two, rel=1e-4)
        assert close(weights(folder / "one"), weights(folder / "two"), 2e-4)
        # each process has written its part before the checkpoint got its name
        checkpoints = sorted(p.name for p in (folder / "two").iterdir() if p.is_dir())
        assert checkpoints == ["checkpoint-2", "checkpoint-4"]
        for checkpoint in checkpoints:
            assert {f"rng_state_{i}.pth" for i in range(2)} < set(os.listdir(folder / "two" / checkpoint))


@pytest.mark.slow
def test_resumed_in_a_new_process_is_uninterrupted(tmp_path):
    """That a killed run leaves whole checkpoints is for test_interrupted.py."""
    cases = [("vit", "wave"), ("vit", "condensed"), ("bert", "condensed"), ("vit", "plain"), ("bert", "tleg")]
    jobs = []
    for data, learngene in cases:
        saving = {"save_strategy": "steps", "save_steps": 2, "seed": 3}
        if learngene == "plain":  # projections are trained too, and must come back
            saving |= {"distillation": "features", "alpha": 0.5}
        if learngene == "condensed":  # which smaller size a step trains too must come back
            saving |= {"sandwich_weight": 0.5, "sandwich_min_layers": 1, "sandwich_widths": [16, 24]}
            saving["auxiliary_weight"] = float(data == "vit")
        whole, cut = (tmp_path / f"{data}-{learngene}" / n for n in ("whole", "cut"))
        train(data, learngene, whole, **saving)
        jobs.append([data, learngene, str(cut), {"resume": str(whole / "checkpoint-2"), **saving}])
    launch(jobs, tmp_path / "launch")
    for data, learngene in cases:
        whole, cut = (weights(tmp_path / f"{data}-{learngene}" / n) for n in ("whole", "cut"))
        assert close(whole, cut, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_a_learngene_towards_its_teacher(kind, tmp_path):
    trainer = trainer_of("vit", kind, tmp_path, alpha=1.0, max_steps=30, learning_rate=3e-3, logging_steps=5)
    trainer.train()
    found = losses_of(trainer)
    assert found[-1] < 0.8 * found[0]
    trainer.save_model(tmp_path / "final")
    again = AutoModel.from_pretrained(tmp_path / "final")
    assert type(again) is type(trainer.student)
    assert again.initialize(num_hidden_layers=5).config.num_hidden_layers == 5


def test_a_fresh_learngene_is_fitted_once_it_was_trained(tmp_path):
    from hf_learngene.learngenes import TlegConfig

    learngene = AutoLearngene.from_config(TlegConfig(base_config=teacher_of("vit").config.to_dict(),
                                                     base_architecture="ViTForImageClassification"))  # fmt: skip
    trainer_of("vit", "", tmp_path, model=learngene).train()
    assert learngene.initialize().config.num_hidden_layers == 3


@pytest.mark.parametrize("kind", ["fine", "wave"])
def test_in_adaptation_only_scalers_change(kind, tmp_path):
    learngene = student_of("vit", kind)
    before = {n: p.clone() for n, p in learngene.named_parameters()}
    adapted = learngene.adapt(
        Images(),
        teacher=teacher_of("vit"),
        steps=5,
        num_hidden_layers=5,
        use_cpu=True,
        disable_tqdm=True,
        optim="adamw_torch",
    )
    assert all(torch.equal(p, before[n]) for n, p in learngene.named_parameters())
    start = learngene.for_size(num_hidden_layers=5)
    changed = {
        n for (n, a), b in zip(adapted.named_parameters(), start.parameters(), strict=True) if not torch.equal(a, b)
    }
    assert changed
    assert all(n.startswith("scalers.") for n in changed)
    assert adapted.initialize().config.num_hidden_layers == 5
    adapted.save_pretrained(tmp_path)
    again = AutoLearngene.from_pretrained(tmp_path)
    for (name, a), b in zip(adapted.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_what_has_no_scalers_cannot_be_adapted():
    with pytest.raises(errors.InvalidSizeError, match="`tleg` has no scalers"):
        student_of("vit", "tleg").adapt(Images(), num_hidden_layers=5)


# ---- losses of the trainer


def test_masked_tokens_are_the_items(tmp_path):
    trainer = trainer_of("mlm", "plain", tmp_path, alpha=1.0)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    trainer.student.train()
    loss = float(trainer.compute_loss(trainer.student, dict(batch)).detach())
    kept = batch["labels"] != -100
    with torch.no_grad():
        mine = trainer.student(batch["input_ids"], batch["attention_mask"]).logits[kept]
        theirs = trainer.teacher.model(batch["input_ids"], batch["attention_mask"]).logits[kept]
    assert loss == pytest.approx(float(losses.soft_logit_loss(mine, theirs).mean()), rel=1e-5)


def test_a_batch_without_a_masked_token_teaches_nothing(tmp_path):
    trainer = trainer_of("mlm", "tleg", tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    trainer.student.train()
    loss = trainer.compute_loss(trainer.student, batch, num_items_in_batch=torch.tensor(0))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in trainer.student.parameters())


def test_labels_alone_are_the_models_own_loss(tmp_path):
    trainer = trainer_of("bert", "plain", tmp_path, teacher=None)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    trainer.student.train()
    loss = float(trainer.compute_loss(trainer.student, dict(batch)).detach())
    assert loss == pytest.approx(float(trainer.student(**batch).loss.detach()), rel=1e-6)
    assert set(trainer.evaluate(Texts(8))) >= {"eval_loss"}


@pytest.mark.parametrize("distillation", ["features", "hard"])
@pytest.mark.parametrize("learngene", ["plain", "tleg"])
def test_a_teacher_of_another_width(distillation, learngene, tmp_path):
    extra = {"hidden_size": 48, "num_hidden_layers": 5}
    if distillation == "features":  # a teacher without a head
        teacher = tiny_model("vit", "ViTModel", extra, dtype=torch.float32)
    else:
        teacher = teacher_of("vit", **extra)
    more = {"hidden_states_weight": 0.5, "relations_weight": 0.5, "relation_heads": 3}
    trainer = trainer_of("vit", learngene, tmp_path, teacher, distillation=distillation, **more)
    before = {n: p.clone() for n, p in trainer.projections.named_parameters()}
    trainer.train()
    moved = [n for n, p in trainer.projections.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(before) > 0
    assert all(torch.isfinite(torch.tensor(losses_of(trainer))))


def test_no_labels_are_needed_when_the_teacher_says_all(tmp_path):
    class Unlabelled(Images):
        def __getitem__(self, index):
            return {"pixel_values": self.pixels[index]}

    trainer_of("vit", "tleg", tmp_path, alpha=1.0, train_dataset=Unlabelled()).train()
    with pytest.raises(errors.TrainingDataError, match="no labels .* alpha=1.0 needs none"):
        trainer_of("vit", "tleg", tmp_path, train_dataset=Unlabelled()).train()


def test_cached_logits_teach_as_the_teacher_does(tmp_path):
    runs = []
    for name, cached in (("live", False), ("cached", True)):
        trainer = trainer_of("vit", "tleg", tmp_path / name, cache_teacher=cached, num_train_epochs=2, max_steps=-1)
        if cached:
            calls = []
            trainer.teacher.model.register_forward_hook(lambda *_, seen=calls: seen.append(1))
            trainer.train()
            assert len(calls) == 4  # 32 examples in batches of 8, once for two epochs
        else:
            trainer.train()
        runs.append(losses_of(trainer))
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
    files = sorted(p.suffix for p in (tmp_path / "cached").glob("teacher_logits_*"))
    assert files == [".npy"]


# ---- the teacher


def test_images_are_normalised_for_the_teacher():
    student = ViTImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    wanted = ViTImageProcessorPil(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    teacher = Teacher(teacher_of("vit"), wanted, student)
    raw = torch.rand(2, 3, 12, 12)
    mean, std = (torch.tensor(x)[:, None, None] for x in (wanted.image_mean, wanted.image_std))
    torch.testing.assert_close(teacher._seen((raw - 0.5) / 0.5), (raw - mean) / std)
    assert teacher._seen(torch.rand(2, 3, 24, 24)).shape == (2, 3, 12, 12)


def test_the_teacher_gets_columns_that_the_student_does_not_take(tmp_path):
    student = tiny_model("distilbert", "DistilBertForSequenceClassification", dtype=torch.float32)
    trainer = trainer_of("bert", "plain", tmp_path, model=student)
    trainer._set_signature_columns_if_needed()
    assert "token_type_ids" in trainer._signature_columns
    seen = []
    trainer.teacher.model.register_forward_pre_hook(lambda m, a, k: seen.append(set(k)), with_kwargs=True)

    class Typed(Texts):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "token_type_ids": torch.zeros(10, dtype=torch.long)}

    trainer.train_dataset = Typed()
    trainer.train()
    assert "token_type_ids" in seen[0]
    assert "labels" not in seen[0]


# ---- bad input


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path):
    trainer = trainer_of("vit", "tleg", tmp_path, save_strategy="steps", save_steps=2)
    total = trainer.objective.total
    trainer.objective.total = lambda *a, **k: total(*a, **k) * (float("nan") if trainer.state.global_step == 3 else 1)
    with pytest.raises(errors.NonFiniteLossError, match="nan at step 4. The last checkpoint is checkpoint-2"):
        trainer.train()
    assert AutoLearngene.from_pretrained(tmp_path / "checkpoint-2").config.fitted
    assert all(torch.isfinite(p).all() for p in trainer.student.parameters())


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    trainer_of("vit", "tleg", tmp_path, save_strategy="steps", save_steps=2).train()
    with pytest.raises(errors.ResumeError, match="checkpoint-2 was written by another configuration"):
        trainer_of("vit", "sws", tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    other = AutoLearngene.from_ancestry(teacher_of("vit", hidden_size=48), "tleg")
    with pytest.raises(errors.ResumeError, match="base_config.hidden_size: 24 there, 48 here"):
        trainer_of("vit", "", tmp_path, model=other).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def no_labels():
    model = teacher_of("vit")
    model.config.num_labels = 7
    return model


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: trainer_of("vit", "plain", p, no_labels()), errors.TeacherError, "teacher has 7 labels, the student 5"),
        (lambda p: trainer_of("mlm", "plain", p, teacher_of("mlm", vocab_size=80)), errors.TeacherError, "vocabulary of 80"),
        (lambda p: trainer_of("vit", "plain", p, alpha=1.5), errors.UnknownOptionError, "alpha lies between 0"),
        (lambda p: trainer_of("vit", "plain", p, temperature=0), errors.UnknownOptionError, "temperature is above 0"),
        (lambda p: trainer_of("vit", "plain", p, distillation="sof"), errors.UnknownOptionError, "features, embeddings, none"),
        (lambda p: trainer_of("vit", "plain", p, sandwich_weight=-1), errors.UnknownOptionError, "0 .off. or above"),
        (lambda p: trainer_of("vit", "plain", p, sandwich_weight=1), errors.UnknownOptionError, "this student is one model"),
        (lambda p: trainer_of("vit", "wave", p, auxiliary_weight=0), errors.UnknownOptionError, "set that too"),
        (lambda p: trainer_of("vit", "wave", p, auxiliary_weight=0, sandwich_weight=1, relations_weight=1),
         errors.UnknownOptionError, "leaves that out"),
        (lambda p: trainer_of("vit", "plain", p, cache_teacher=True, hidden_states_weight=1), errors.UnknownOptionError,
         "logits only"),
        (lambda p: trainer_of("vit", "plain", p, None, cache_teacher=True), errors.TeacherError, "needs a teacher"),
        (lambda p: trainer_of("mlm", "plain", p, cache_teacher=True).train(), errors.TeacherError, "one row of logits"),
        (lambda p: trainer_of("vit", "plain", p, relations_weight=1, relation_heads=7), errors.TeacherError, "does not divide"),
        (lambda p: trainer_of("vit", "plain", p, train_dataset=Texts()).train(), errors.TrainingDataError,
         "reads 'pixel_values'"),
        (lambda p: trainer_of("vit", "condensed", p, sandwich_weight=1, sandwich_widths=[16, 12]), errors.InvalidSizeError,
         "hidden_size=12 cannot keep"),
        (lambda p: trainer_of("vit", "sws", p, sandwich_weight=1, sandwich_widths=[16]), errors.InvalidSizeError, "width"),
        (lambda p: trainer_of("vit", "tleg", p, sandwich_weight=1, sandwich_min_layers=9, sandwich_max_layers=4),
         errors.InvalidSizeError,
         "between 1 and sandwich_max_layers .4"),
        (lambda p: trainer_of("vit", "plain", p, tiny_model("vit", "ViTModel", dtype=torch.float32), alpha=1.0).train(),
         errors.TeacherError, "labels|features"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_said(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make(tmp_path)


def test_labels_in_another_order_are_refused(tmp_path):
    teacher, student = teacher_of("vit"), student_of("vit", "plain")
    names = ["cat", "dog", "cow", "hen", "owl"]
    student.config.id2label = dict(enumerate(names))
    teacher.config.id2label = dict(enumerate(reversed(names)))
    with pytest.raises(errors.TeacherError, match="Label 0 is 'owl' for the teacher and 'cat' for the student"):
        trainer_of("vit", "", tmp_path, teacher, model=student)


def test_several_gpus_in_one_process_are_refused_for_weights_that_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(LearngeneTrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(errors.UnknownOptionError, match="sees 2 GPUs.*torchrun --nproc_per_node 2"):
        trainer_of("vit", "wave", tmp_path)
    trainer_of("vit", "plain", tmp_path)


def test_only_its_own_arguments_are_taken(tmp_path):
    from transformers import TrainingArguments

    from hf_learngene import LearngeneTrainer

    with pytest.raises(errors.UnknownOptionError, match="LearngeneTrainingArguments"):
        LearngeneTrainer(student_of("vit", "plain"), TrainingArguments(str(tmp_path), report_to="none"))
    assert LearngeneTrainingArguments(str(tmp_path), report_to="none").alpha == 0.5
    assert DATA.keys() == {"vit", "bert", "mlm"}
