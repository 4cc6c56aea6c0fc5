"""A learngene and the Hub repository that its ancestry comes from: revision, token, commit and licence."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import BertForSequenceClassification

from hf_learngene import AutoLearngene, AutoModelForSequenceClassification, push_resized
from hf_learngene.hub.card import model_card
from hf_learngene.hub.save import save_resized
from testing.families import tiny_model
from testing.hub import OWNER, Fault
from testing.hub_client import JobError
from testing.hub_jobs import cli, same
from testing.saving import tokenizer
from testing.training import NO_DROPOUT


pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs run in forks"), pytest.mark.usefixtures("hub")]
LICENSES = ("mit", "apache-2.0")
SWS = ("--learngene-type", "sws", "--option", "num_stages=3", "--steps", 0)


@pytest.fixture(scope="module")
def teacher(served, tmp_path_factory):
    """`user/teacher`, and `user/private` of the same: two commits of other weights and licences, the first tagged `v1`."""
    commits = []
    for name in ("user/teacher", "user/private"):
        served.create(name, private=name == "user/private")
        for seed, license in enumerate(LICENSES):
            folder = tmp_path_factory.mktemp("teacher")
            tiny_model(
                "bert", "BertForSequenceClassification", NO_DROPOUT, dtype=torch.float32, seed=seed
            ).save_pretrained(folder)
            tokenizer().save_pretrained(folder)
            card = f"---\nlicense: {license}\n---\n\n# A model\n"
            commits.append(served.upload(name, folder, **{"README.md": card}))
        served.repos[name].refs["v1"] = commits[-2]
    return commits


@pytest.fixture
def texts(tmp_path) -> Path:
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *[("good film", 1), ("bad plot and poor film", 0)] * 10])
    return tmp_path / "texts.csv"


def says(card: str | bytes, license: str, commit: str | None, base: str | None = "user/teacher") -> bool:
    text = card.decode() if isinstance(card, bytes) else card
    data = ModelCard(text).data
    return (data.license, data.base_model) == (license, base) and (commit is None or commit in text)


# ---- jobs


def learn(output: Path, name: str = "user/teacher", **given: Any) -> dict[str, torch.Tensor]:
    """A learngene and a descendant of it, in folders; the learngene on the Hub too."""
    learngene = AutoLearngene.from_ancestry(name, "sws", num_stages=3, **given)
    learngene.save_pretrained(output / "genes")
    learngene.push_to_hub("user/genes")
    model = learngene.initialize(num_hidden_layers=2)
    loading = {n: v for n, v in given.items() if n in ("revision", "token")}
    save_resized(
        model, output / "made", source=name, loading=loading, card=model_card(model, source=name, loading=loading)
    )
    return learngene.state_dict()


def push_descendant(name: str) -> None:
    push_resized(AutoLearngene.from_pretrained("user/genes").initialize(num_hidden_layers=2), name)


def recorded(loaded: bool = False, commit: str | None = None, **given: Any) -> tuple[str | None, dict | None]:
    """(commit, licence) of a learngene's ancestry, given by id or in memory."""
    model: Any = "user/teacher"
    if loaded:
        model = BertForSequenceClassification.from_pretrained(model, **given)
        given = {}
        if commit is not None:
            model.config._commit_hash = commit
    config = AutoLearngene.from_ancestry(model, "tleg", **given).config
    return config.ancestry_commit, config.license


def grow(output: Path, **given: Any) -> None:
    AutoModelForSequenceClassification.from_pretrained_resized(
        "user/teacher", num_hidden_layers=5, **given
    ).save_pretrained(output)


# ---- commit and licence


def test_licence_and_commit_go_from_the_ancestry_to_its_descendants(hub, client, teacher, tmp_path):
    client.run(learn, tmp_path)
    for card in (tmp_path / "genes" / "README.md", tmp_path / "made" / "README.md"):
        assert says(card.read_text(), "apache-2.0", teacher[1]), card
    assert says(hub.files("user/genes")["README.md"], "apache-2.0", teacher[1])


def test_a_revision_has_its_own_licence(hub, client, teacher, tmp_path):
    found = client.run(learn, tmp_path / "old", revision="v1", num_hidden_layers=3)
    for card in (tmp_path / "old" / "genes" / "README.md", tmp_path / "old" / "made" / "README.md"):
        assert says(card.read_text(), "mit", teacher[0]), card
    client.run(push_descendant, "user/descendant")
    assert says(hub.files("user/descendant")["README.md"], "mit", hub.head("user/genes"), "user/genes")
    assert not same(found, client.run(learn, tmp_path / "new"))


def test_what_is_private_is_read_with_a_token(client, teacher, tmp_path):
    with pytest.raises(JobError, match="user/private"):
        client.run(learn, tmp_path, "user/private", login=None)
    with pytest.raises(JobError):  # the token that reads the ancestry is not one to push with
        client.run(learn, tmp_path, "user/private", token=OWNER, login=None)
    assert says((tmp_path / "genes" / "README.md").read_text(), "apache-2.0", teacher[3], "user/private")


def test_a_model_in_memory_tells_its_commit_where_it_has_one(hub, client, teacher):
    assert client.run(recorded, loaded=True, commit=teacher[0], revision="v1") == (teacher[0], {"license": "mit"})
    hub.calm()
    assert client.run(recorded, loaded=True, revision="v1") == (None, {})
    assert hub.asked("README.md") == []  # the name alone says too little of where it was loaded from


def test_a_hub_that_cannot_be_reached_costs_the_licence_only(hub, client, teacher):
    hub.faults = [Fault("README.md", status=503, times=math.inf)]
    cache = client.cache()
    assert client.run(recorded, cache=cache) == (teacher[1], {})
    hub.calm()
    assert client.run(recorded, cache=cache, local_files_only=True) == (teacher[1], {})
    assert hub.requests == []


# ---- the command line


@pytest.mark.parametrize(
    ("flags", "license", "commit"), [((), "apache-2.0", 1), (("--revision", "v1"), "mit", 0)], ids=["main", "v1"]
)
def test_build_and_init_carry_licence_and_commit(client, teacher, tmp_path, flags, license, commit):
    genes, made = tmp_path / "genes", tmp_path / "made"
    assert client.run(cli, "build", "user/teacher", genes, *SWS, *flags)[0] == 0
    assert says((genes / "README.md").read_text(), license, teacher[commit])
    assert client.run(cli, "init", genes, made, "--num-hidden-layers", 2, login=None)[0] == 0
    assert says((made / "README.md").read_text(), license, teacher[commit])


def test_build_takes_a_token(client, teacher, tmp_path):
    genes = tmp_path / "genes"
    status, _, err = client.run(cli, "build", "user/private", genes, *SWS, login=None)
    assert (status, "user/private" in err) == (2, True)
    flags = ("--token", OWNER, "--revision", "v1")
    assert client.run(cli, "build", "user/private", genes, *SWS, *flags, login=None)[0] == 0
    assert says((genes / "README.md").read_text(), "mit", teacher[2], "user/private")
    assert (genes / "tokenizer.json").exists()


def test_compare_takes_a_revision_and_a_token(client, teacher, texts, tmp_path):
    command = (
        "compare", "user/private", tmp_path / "out", "--data", texts, "--sizes", "num_hidden_layers=2",
        "--method", "random", "--steps", 1, "--seeds", 1, "--batch-size", 4,
    )  # fmt: skip
    status, _, err = client.run(cli, *command, login=None)
    assert (status, "user/private" in err) == (2, True)
    assert client.run(cli, *command, "--token", OWNER, "--revision", "v1", login=None)[0] == 0
    status, _, err = client.run(cli, *command, "--token", OWNER, login=None)
    assert (status, "with other settings" in err) == (2, True)  # main has other weights


def test_verify_takes_a_revision_of_the_source(client, teacher, tmp_path):
    client.run(grow, tmp_path / "grown", revision="v1")
    command = ("verify", "user/teacher", tmp_path / "grown")
    assert client.run(cli, *command, "--revision", "v1")[0] == 0
    assert client.run(cli, *command)[0] == 1


def test_resize_takes_the_tokenizer_for_its_examples_with_a_token(client, teacher, texts, tmp_path):
    flags = ("--size", "intermediate_size=20", "--calibration", texts, "--token", OWNER, "--revision", "v1")
    assert client.run(cli, "resize", "user/private", tmp_path / "out", *flags, login=None)[0] == 0
