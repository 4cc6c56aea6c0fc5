"""A Trainer's checkpoint grown in the middle of a training, and the training that goes on."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_learngene import resize_trainer_checkpoint
from hf_learngene.errors import LearngeneError, OutputError, TrainingStateError
from hf_learngene.training import CheckpointSafeTrainer
from testing.families import tiny_model
from testing.training import DATA, NO_DROPOUT, Images, Texts


SIZES = {"hidden_size": 48, "num_hidden_layers": 5}


def arguments(folder, steps, **more):
    settings = {"save_steps": steps, "logging_steps": 1, "weight_decay": 0.1, "learning_rate": 1e-3, **more}
    return TrainingArguments(
        str(folder), max_steps=steps, report_to="none", disable_tqdm=True, use_cpu=True, seed=1, **settings
    )


def run(folder, data="bert", steps=4, trainer=Trainer, **more):
    """A finished run, and its last checkpoint."""
    kind, name, made = DATA[data]
    model = tiny_model(kind, name, NO_DROPOUT, dtype=torch.float32)
    optimizers = (more.pop("optimizer")(model), None) if "optimizer" in more else (None, None)
    done = trainer(model, arguments(folder, steps, **more), train_dataset=made(), optimizers=optimizers)
    done.train()
    return done, folder / f"checkpoint-{steps}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run"), lr_scheduler_type="linear")


def loss_of(model, data):
    batch = [data[i] for i in range(8)]
    columns = {k: torch.stack([torch.as_tensor(b[k]) for b in batch]) for k in batch[0]}
    with torch.no_grad():
        return float(model.eval()(**columns).loss)


def test_the_loss_is_the_same_and_training_goes_on(source, tmp_path):
    trainer, checkpoint = source
    folder = resize_trainer_checkpoint(checkpoint, tmp_path / "grown" / "checkpoint-4", **SIZES)
    assert {f.name for f in folder.iterdir()} == {
        "config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin",
        "trainer_state.json",
    }  # fmt: skip
    grown = AutoModelForSequenceClassification.from_pretrained(folder)
    assert grown.config.hidden_size == 48
    assert grown.config.num_hidden_layers == 5
    assert abs(loss_of(grown, Texts()) - loss_of(trainer.model, Texts())) <= 1e-6
    after = Trainer(grown, arguments(tmp_path / "grown", 7, lr_scheduler_type="linear"), train_dataset=Texts())
    after.train(resume_from_checkpoint=str(folder))
    assert after.state.global_step == 7
    assert [entry["step"] for entry in after.state.log_history if "loss" in entry] == [1, 2, 3, 4, 5, 6, 7]
    old = after.optimizer.state[grown.bert.encoder.layer[0].output.dense.weight]
    new = after.optimizer.state[grown.bert.encoder.layer[2].output.dense.weight]
    assert old["step"] == 7
    assert new["step"] == 3


def test_the_states_are_those_of_the_names_and_the_groups_those_of_the_trainer(source, tmp_path):
    trainer, checkpoint = source
    folder = resize_trainer_checkpoint(checkpoint, tmp_path / "grown", method="lemon", symmetry="equal", **SIZES)
    grown = AutoModelForSequenceClassification.from_pretrained(folder)
    again = Trainer(grown, arguments(tmp_path, 7))
    again.create_optimizer()
    again.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    assert [g["weight_decay"] for g in again.optimizer.param_groups] == [0.1, 0.0]
    own, theirs = dict(trainer.model.named_parameters()), dict(grown.named_parameters())
    for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.key.bias"):
        before, after = trainer.optimizer.state[own[name]], again.optimizer.state[theirs[name]]
        for copy in after["exp_avg"].chunk(2, -1):  # rows of two copies that are read in halves
            torch.testing.assert_close(copy * 2, before["exp_avg"])
        for copy in after["exp_avg_sq"].chunk(2, -1):
            torch.testing.assert_close(copy * 4, before["exp_avg_sq"])
        assert after["step"] == before["step"] == 4
    head = again.optimizer.state[theirs["classifier.weight"]]["exp_avg"]
    for copy in head.chunk(2, -1):  # columns that sum to the source's
        torch.testing.assert_close(copy, trainer.optimizer.state[own["classifier.weight"]]["exp_avg"])


def test_what_is_of_any_size_is_taken_over_and_the_best_is_found_anew(tmp_path):
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    kind, name, made = DATA["bert"]
    model = tiny_model(kind, name, NO_DROPOUT, dtype=torch.float32)
    args = arguments(tmp_path / "run", 4, **evaluated)
    Trainer(model, args, train_dataset=made(), eval_dataset=made(8)).train()
    folder = resize_trainer_checkpoint(tmp_path / "run" / "checkpoint-4", tmp_path / "grown", hidden_size=48)
    old, new = (
        json.loads((f / "trainer_state.json").read_text()) for f in (tmp_path / "run" / "checkpoint-4", folder)
    )
    assert old["best_model_checkpoint"]
    assert new["best_model_checkpoint"] is new["best_metric"] is None
    assert {k: v for k, v in new.items() if "best" not in k} == {k: v for k, v in old.items() if "best" not in k}
    for file in ("scheduler.pt", "rng_state.pth", "training_args.bin"):
        assert (folder / file).read_bytes() == (tmp_path / "run" / "checkpoint-4" / file).read_bytes()
    grown = AutoModelForSequenceClassification.from_pretrained(folder)
    args = arguments(tmp_path / "grown-run", 6, **evaluated)
    after = Trainer(grown, args, train_dataset=made(), eval_dataset=made(8))
    after.train(resume_from_checkpoint=str(folder))
    assert after.state.best_model_checkpoint.endswith("checkpoint-6")


def test_images_and_their_trainer(tmp_path):
    trainer, checkpoint = run(tmp_path / "run", "vit", trainer=CheckpointSafeTrainer)
    folder = resize_trainer_checkpoint(
        checkpoint, tmp_path / "grown" / "checkpoint-4", hidden_size=32, num_attention_heads=4
    )
    grown = type(trainer.model).from_pretrained(folder)
    assert abs(loss_of(grown, Images()) - loss_of(trainer.model, Images())) <= 1e-6
    after = CheckpointSafeTrainer(grown, arguments(tmp_path / "grown", 6), train_dataset=Images())
    assert after.train(resume_from_checkpoint=True).global_step == 6
    assert after.optimizer.state[grown.classifier.weight]["step"] == 6


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
        lambda model: torch.optim.Adam(model.bert.encoder.named_parameters(prefix="bert.encoder"), amsgrad=True),
    ],
    ids=["one group", "named, with the rest frozen"],
)
def test_optimizers_of_ones_own(optimizer, tmp_path):
    _, checkpoint = run(tmp_path / "run", optimizer=optimizer)
    folder = resize_trainer_checkpoint(checkpoint, tmp_path / "grown", **SIZES)
    grown = AutoModelForSequenceClassification.from_pretrained(folder)
    made = optimizer(grown)
    made.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    assert made.state[grown.bert.encoder.layer[0].output.dense.weight]["exp_avg_sq"].shape == (48, 80)


def test_a_plateau_scheduler_goes_on(tmp_path):
    more = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1}
    kind, name, made = DATA["bert"]
    model = tiny_model(kind, name, NO_DROPOUT, dtype=torch.float32)
    Trainer(model, arguments(tmp_path / "run", 2, **more), train_dataset=made(), eval_dataset=made(8)).train()
    folder = resize_trainer_checkpoint(tmp_path / "run" / "checkpoint-2", tmp_path / "grown", hidden_size=48)
    grown = AutoModelForSequenceClassification.from_pretrained(folder)
    after = Trainer(grown, arguments(tmp_path / "b", 3, **more), train_dataset=made(), eval_dataset=made(8))
    assert after.train(resume_from_checkpoint=str(folder)).global_step == 3


def spoil(name):
    """What makes of a good checkpoint one that is refused."""

    def change(folder):
        file = folder / "optimizer.pt"
        if name.startswith("sharded"):
            (folder / name.split()[1]).mkdir()
        elif name == "adapter":
            (folder / "adapter_config.json").write_text("{}")
        elif name.startswith("without"):
            (folder / name.split()[1]).unlink()
        elif name == "cut":
            file.write_bytes(file.read_bytes()[:-100])
        elif name == "pickle":
            torch.save({"state": {}, "param_groups": [torch.nn.Linear(2, 2)]}, file)
        else:
            held = torch.load(file, weights_only=True)
            if name == "lion":
                held["state"] = {k: {"exp_avg": v["exp_avg"]} for k, v in held["state"].items()}
            if name == "8 bit":
                held["state"] = {k: {"state1": 0, "state2": 0, "step": 3} for k in held["state"]}
            if name == "packed":
                held["state"][3]["exp_avg"] = held["state"][3]["exp_avg"].flatten()
            if name == "frozen":
                held["param_groups"][1]["params"].pop()
            if name == "groups":
                held["param_groups"] = held["param_groups"] * 2
            if name == "strangers":
                for group in held["param_groups"]:
                    group["param_names"] = [f"module.{i}" for i in group["params"]]
            torch.save(held, file)
            if name == "scheduler":
                torch.save({"base_lrs": [0.1] * 5}, folder / "scheduler.pt")
            if name == "scheduler names":
                torch.save({"rates": {"classifier.weight": 0.1}}, folder / "scheduler.pt")
            if name == "scheduler tensors":
                torch.save({"rates": [torch.ones(24)]}, folder / "scheduler.pt")

    return change


REFUSED = [
    ("sharded optimizer_0", "sharded states"), ("sharded global_step4", "sharded states"), ("adapter", "resize_adapter"),
    ("without trainer_state.json", "no Trainer's checkpoint"), ("without optimizer.pt", "save_only_model"),
    ("without scheduler.pt", "save_only_model"), ("without model.safetensors", "not whole"), ("cut", "not whole"),
    ("pickle", "more than tensors"), ("lion", "nothing else does"), ("8 bit", "nothing else does"),
    ("packed", "sharded or packed"),
    ("frozen", "some are frozen"), ("groups", "grouped otherwise"), ("strangers", "not those of the model"),
    ("scheduler", "not of one run"), ("scheduler names", "names parameters"), ("scheduler tensors", "holds tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "said"), REFUSED)
def test_what_cannot_go_on_is_refused_before_anything_is_written(fault, said, source, tmp_path):
    folder = shutil.copytree(source[1], tmp_path / "checkpoint-4")
    spoil(fault)(folder)
    with pytest.raises(TrainingStateError, match=said):
        resize_trainer_checkpoint(folder, tmp_path / "grown", hidden_size=48)
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"num_hidden_layers": 1}, TrainingStateError),
        ({"hidden_size": 48, "num_labels": 7}, TrainingStateError),
        ({"hidden_size": 36, "num_attention_heads": 3}, LearngeneError),
        ({"hidden_size": 48, "reset": "some"}, TrainingStateError),
    ],
)
def test_other_resizes_are_refused_before_anything_is_written(given, error, source, tmp_path):
    with pytest.raises(error):
        resize_trainer_checkpoint(source[1], tmp_path / "grown", **given)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_exists_and_one_that_does_not(source, tmp_path):
    (tmp_path / "grown").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        resize_trainer_checkpoint(source[1], tmp_path / "grown", hidden_size=48)
    with pytest.raises(OutputError, match="would delete it|holds no config|holds more"):
        resize_trainer_checkpoint(source[1], source[1].parent, hidden_size=48, overwrite=True)
    with pytest.raises(TrainingStateError, match="no Trainer's checkpoint"):
        resize_trainer_checkpoint(tmp_path / "nowhere", tmp_path / "other", hidden_size=48)


def test_what_breaks_off_leaves_nothing(source, tmp_path, monkeypatch):
    from hf_learngene.resizing import trainer_checkpoint

    monkeypatch.setattr(trainer_checkpoint.torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OutputError):
        resize_trainer_checkpoint(source[1], tmp_path / "grown", hidden_size=48)
    assert not any(tmp_path.iterdir())


def test_nothing_but_tensors_is_read(source, tmp_path, monkeypatch):
    folder = shutil.copytree(source[1], tmp_path / "checkpoint-4")
    (folder / "training_args.bin").write_bytes(b"not read")
    read, load = [], torch.load

    def watched(file, *args, **kwargs):
        read.append((str(file), kwargs.get("weights_only")))
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    resize_trainer_checkpoint(folder, tmp_path / "grown", hidden_size=48)
    assert {name.rpartition("/")[2] for name, _ in read} == {"optimizer.pt", "scheduler.pt"}
    assert all(safe for _, safe in read)
