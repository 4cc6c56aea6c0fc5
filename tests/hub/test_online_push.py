"""What is pushed, where it arrives, what stays of what was there, and what breaks on the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import tempfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import BertForSequenceClassification

from hf_learngene import (
    AutoLearngene,
    AutoModelForSequenceClassification,
    LearngeneTrainer,
    LearngeneTrainingArguments,
    push_resized,
)
from hf_learngene.hub import push_folder
from testing.hub import GUEST, OWNER, Fault, Hub
from testing.hub_client import HOST, PERSON, JobError
from testing.hub_jobs import CARD, OPTIONS, classifier, cli, pushed, same
from testing.saving import tokenizer
from testing.training import Texts


pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs run in forks"), pytest.mark.usefixtures("hub")]


@pytest.fixture(scope="module")
def bert(served, tmp_path_factory):
    """`user/bert` in two commits with other tokenizers and licences, the first tagged `v1`: both, oldest first."""
    commits = []
    served.create("user/bert")
    for limit, license in ((30, "mit"), (40, "apache-2.0")):
        folder = tmp_path_factory.mktemp("bert")
        classifier().save_pretrained(folder)
        tokenizer(limit).save_pretrained(folder)
        commits.append(served.upload("user/bert", folder, **{"README.md": CARD.replace("mit", license)}))
    served.repos["user/bert"].tags["v1"] = commits[0]
    return commits


def readme(hub: Hub, name: str, revision: str = "main") -> str:
    return hub.files(name, revision)["README.md"].decode()


def state(hub: Hub, name: str) -> tuple[dict[str, str], int]:
    """(branches, number of commits)."""
    repo = hub.repos[name]
    return dict(repo.refs), len(repo.commits)


def taken_over(card: str) -> str:
    """A card as somebody has it who did what its last line says."""
    return "".join(line for line in card.splitlines(keepends=True) if not line.startswith("<!--")) + "\nMine.\n"


# ---- jobs


def push_random(name: str, seed: int, **given) -> dict[str, torch.Tensor]:
    """Weights that no other test has pushed: a Hub does not ask for those that it has."""
    model = AutoModelForSequenceClassification.from_pretrained_resized("user/bert", method="random", seed=seed)
    push_resized(model, name, **given)
    return model.state_dict()


def push_saved(folder: Path, name: str, **given):
    """The commit, and what was warned of."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("hf_learngene").addHandler(handler)
    return push_folder(folder, name, **given), told


def push_learngene(name: str, **given) -> None:
    AutoLearngene.from_ancestry(classifier(), "sws", **OPTIONS["sws"]).push_to_hub(name, **given)


def refs(name: str) -> dict[str, str]:
    found = HfApi().list_repo_refs(name, include_pull_requests=True)
    return {r.ref: r.target_commit for r in (*found.branches, *found.tags, *found.pull_requests)}


def publish_again(name: str, output: Path) -> None:
    """A model of `v1` as it was made, from the Hub, from the folder it was saved to whole, and from one of the weights alone."""
    resized = AutoModelForSequenceClassification.from_pretrained_resized(
        "user/bert", hidden_size=16, calibration=None, revision="v1"
    )
    push_resized(resized, name)
    push_resized(BertForSequenceClassification.from_pretrained(name), f"{name}-hub")
    given = ["--hidden-size", 16, "--calibration", "none", "--revision", "v1"]
    assert cli("resize", "user/bert", output / "whole", *given)[0] == 0
    resized.save_pretrained(output / "bare")
    for kind in ("whole", "bare"):
        push_resized(BertForSequenceClassification.from_pretrained(output / kind), f"{name}-{kind}")


def push_all(folder: Path, name: str, output: Path) -> None:
    """What is made of a local folder by a resize, by the command line and by training, from other local folders."""
    resized = AutoModelForSequenceClassification.from_pretrained_resized(folder, hidden_size=16)
    resized.push_to_hub(f"{name}-plain")
    push_resized(resized, f"{name}-resized")
    assert cli("resize", folder, output / "command", "--hidden-size", 16)[0] == 0
    assert cli("push", output / "command", f"{name}-command")[0] == 0
    learngene = AutoLearngene.from_ancestry(folder, "sws", **OPTIONS["sws"])
    arguments = LearngeneTrainingArguments(
        str(output / "runs"), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True
    )
    LearngeneTrainer(learngene, arguments, teacher=classifier(), train_dataset=Texts(8)).train()
    learngene.push_to_hub(f"{name}-learngene")
    push_folder(output / "runs" / "checkpoint-1", f"{name}-checkpoint")
    learngene.save_pretrained(output / "learngene")
    descendant = AutoLearngene.from_pretrained(output / "learngene").initialize(num_hidden_layers=2)
    descendant.push_to_hub(f"{name}-descendant")


# ---- connections that break


@pytest.mark.parametrize("part_size", [None, 20_000])
def test_a_broken_upload_is_sent_again(hub, client, bert, part_size):
    name = f"user/parts-{part_size}"
    hub.part_size = part_size
    hub.faults = [Fault("PUT /storage/", after=1000)]
    wanted = client.run(push_random, name, seed=part_size or 0)
    size = len(hub.files(name)["model.safetensors"])
    assert len(hub.asked("PUT")) == (math.ceil(size / part_size) if part_size else 1) + 1
    assert same(pushed(hub, name), wanted)
    assert state(hub, name) == ({"main": hub.head(name)}, 2)


@pytest.mark.parametrize("what", ["/preupload/", "POST /api/repos/create", "POST .*/commit/"])
def test_an_answer_that_makes_no_sense_is_told(hub, client, bert, what):
    name = f"user/garbled-{len(what)}"
    hub.faults = [Fault(what, changed=lambda answer: dataclasses.replace(answer, body=b"{half"), times=math.inf)]
    with pytest.raises(JobError) as caught:
        client.run(push_random, name, seed=40)
    assert caught.value.kinds[0] == "UploadError"
    assert caught.value.message.startswith(f"The upload to {name} broke off (JSONDecodeError")


BROKEN = {
    "weights": "PUT /storage/",
    "commit": "POST .*/commit/",
    "card": "/resolve/v2/README.md",
    "branch": "/branch/",
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_upload_that_never_arrives_changes_nothing(hub, client, bert, what):
    name, seed, given = f"user/never-{what}", 10 + list(BROKEN).index(what), {"revision": "v2"}
    client.run(push_random, name, seed=1)
    before = hub.head(name)
    hub.faults = [Fault(BROKEN[what], after=100, times=math.inf)]
    with pytest.raises(JobError) as caught:
        client.run(push_random, name, seed=seed, **given)
    assert caught.value.kinds[0] == "UploadError"
    assert caught.value.message.startswith(f"The upload to {name} broke off (")
    assert caught.value.message.endswith("). All of it is there or nothing is: push again.")
    # the branch may have been made, of what was there
    assert state(hub, name) == ({"main": before} | ({} if what == "branch" else {"v2": before}), 2)
    hub.calm()
    wanted = client.run(push_random, name, seed=seed, **given)
    made, count = state(hub, name)
    assert (made["main"], count) == (before, 3)
    assert same(pushed(hub, name, "v2"), wanted)


@pytest.mark.parametrize("what", ["weights", "commit"])
def test_an_upload_that_never_arrives_is_told_in_one_line(hub, client, what, tmp_path):
    name = f"user/told-off-{what}"
    classifier(20 + list(BROKEN).index(what)).save_pretrained(
        tmp_path
    )  # what the server has already is not sent again
    (tmp_path / "README.md").write_text(CARD)
    hub.faults = [Fault(BROKEN[what], after=100, times=math.inf)]
    status, _, err = client.run(cli, "push", tmp_path, name)
    assert status == 2
    assert err.splitlines()[-1].startswith(f"Error: The upload to {name} broke off (")
    assert (hub.files(name).keys(), len(hub.repos[name].commits)) == ({".gitattributes"}, 1)


# ---- where it goes


def test_a_push_goes_where_it_is_sent(hub, client, bert):
    wanted = client.run(push_random, "short", seed=5, private=True)
    assert hub.repos["user/short"].private
    assert 'from_pretrained("user/short")' in readme(hub, "user/short")
    before = hub.head("user/short")
    other = client.run(push_random, "user/short", seed=6, revision="a/branch", private=False)
    assert hub.repos["user/short"].private  # it was there
    assert same(pushed(hub, "user/short"), wanted)
    assert same(pushed(hub, "user/short", "a/branch"), other)
    made, count = state(hub, "user/short")
    assert (made, count) == ({"main": before, "a/branch": made["a/branch"]}, 3)
    assert client.run(refs, "user/short") == {"refs/heads/main": before, "refs/heads/a/branch": made["a/branch"]}


def test_a_push_needs_the_right(hub, client, bert):
    before = state(hub, "user/bert")
    for login, name in ((GUEST, "user/bert"), ("hf_wrong", "user/bert"), (None, "user/new")):
        with pytest.raises(JobError) as caught:
            client.run(push_random, name, seed=6, login=login)
        assert "OSError" in caught.value.kinds
    assert state(hub, "user/bert") == before
    assert "user/new" not in hub.repos
    wanted = client.run(push_random, "user/by-token", seed=7, login=GUEST, token=OWNER)
    assert same(pushed(hub, "user/by-token"), wanted)


def test_a_folder_goes_where_it_is_sent(hub, client, tmp_path):
    classifier(8).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(CARD)
    done, told = client.run(push_saved, tmp_path, "user/folder", commit_message="First", commit_description="More.")
    repo = hub.repos["user/folder"]
    assert (done.oid, repo.private, told) == (hub.head("user/folder"), False, [])
    assert repo.messages[done.oid] == ("First", "More.")
    (tmp_path / "README.md").write_text(CARD + "More.")
    asked, _ = client.run(push_saved, tmp_path, "user/folder", create_pr=True)
    assert (asked.pr_revision, repo.messages[asked.oid]) == ("refs/pr/1", ("Upload model", ""))
    assert client.run(refs, "user/folder") == {"refs/heads/main": done.oid, "refs/pr/1": asked.oid}
    assert (readme(hub, "user/folder"), readme(hub, "user/folder", "refs/pr/1")) == (CARD, CARD + "More.")
    status, out, _ = client.run(cli, "push", tmp_path, "user/folder", "--create-pr", "--commit-message", "Third")
    assert (status, out.strip().endswith("/discussions/2")) == (0, True)
    assert repo.messages[repo.at("refs/pr/2")][0] == "Third"
    assert hub.head("user/folder") == done.oid


# ---- whose card


def test_a_card_that_was_taken_over_on_the_hub_stays(hub, client, bert, tmp_path):
    client.run(push_random, "user/edited", seed=20)
    mine = taken_over(readme(hub, "user/edited"))
    hub.commit("user/edited", {"README.md": hub.store(mine.encode())})
    wanted = client.run(push_random, "user/edited", seed=21)
    assert same(pushed(hub, "user/edited"), wanted)
    assert readme(hub, "user/edited") == mine
    client.run(push_learngene, "user/edited")
    assert b'"SwsLearngene"' in hub.files("user/edited")["config.json"]
    assert readme(hub, "user/edited") == mine
    assert (
        client.run(cli, "resize", "user/bert", tmp_path / "out", "--hidden-size", 16, "--calibration", "none")[0] == 0
    )
    _, told = client.run(push_saved, tmp_path / "out", "user/edited")
    assert told == ["README.md of user/edited was written or taken over by somebody, and stays as it is."]
    assert readme(hub, "user/edited") == mine
    # what was written here is meant for there
    (tmp_path / "out" / "README.md").write_text(CARD)
    _, told = client.run(push_saved, tmp_path / "out", "user/edited")
    assert (readme(hub, "user/edited"), told) == (CARD, [])


def test_the_card_that_counts_is_that_of_the_branch(hub, client, bert):
    client.run(push_random, "user/branches", seed=22)
    client.run(push_random, "user/branches", seed=23, revision="v2")
    hub.commit("user/branches", {"README.md": hub.store(CARD.encode())}, "v2")
    client.run(push_random, "user/branches", seed=24, revision="v2")
    client.run(push_learngene, "user/branches")
    assert readme(hub, "user/branches", "v2") == CARD
    assert "AutoLearngene" in readme(hub, "user/branches")  # one of ours is replaced


# ---- where it comes from


@pytest.fixture(scope="module")
def published(served, client, bert, tmp_path_factory):
    client.run(publish_again, "user/small", tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("kind", ["", "-hub", "-whole", "-bare"])
def test_a_model_that_is_published_again_keeps_its_record(hub, published, bert, kind):
    files = hub.files(f"user/small{kind}")
    card = files["README.md"].decode()
    data = ModelCard(card).data
    assert (data.base_model, data.license) == ("user/bert", "mit")  # the licence of v1
    assert f"[user/bert](https://huggingface.co/user/bert) (commit `{bert[0]}`)" in card
    assert f'AutoTokenizer.from_pretrained("user/small{kind}")' in card
    assert json.loads(files["tokenizer_config.json"])["model_max_length"] == 30


@pytest.mark.parametrize("reachable", [True, False])
def test_a_card_that_is_missing_names_the_source_on_record(hub, client, bert, tmp_path, reachable):
    name, out = f"user/missing-{reachable}", tmp_path / "out"
    assert (
        client.run(cli, "resize", "user/bert", out, "--hidden-size", 16, "--calibration", "none", "--revision", "v1")[
            0
        ]
        == 0
    )
    (out / "README.md").unlink()
    if not reachable:
        hub.faults = [Fault("user/bert", status=503, times=math.inf)]
    status, _, err = client.run(cli, "push", out, name)
    assert status == 0, err
    card = readme(hub, name)
    data = ModelCard(card).data
    assert (data.base_model, data.license) == ("user/bert", "mit" if reachable else None)
    assert f'AutoTokenizer.from_pretrained("{name}")' in card
    for file in out.glob("tokenizer*"):
        file.unlink()
    (out / "README.md").unlink()
    assert client.run(cli, "push", out, f"{name}-bare")[0] == 0
    assert "AutoTokenizer" not in readme(hub, f"{name}-bare")


# ---- what is told


def test_nothing_that_is_pushed_tells_of_the_machine(hub, client, home, tmp_path):
    classifier().save_pretrained(tmp_path / "teacher")
    tokenizer().save_pretrained(tmp_path / "teacher")
    client.run(push_all, tmp_path / "teacher", "user/told", tmp_path)
    made = [name for name in hub.repos if name.startswith("user/told-") and "off" not in name]
    assert len(made) == 6
    words = {str(p) for p in (tmp_path, home, Path.cwd())} | {tempfile.gettempdir() + os.sep, OWNER, PERSON, HOST}
    model = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    usual = {".gitattributes", *model, "trainer_state.json"}
    for name in made:
        files = hub.files(name)
        assert files.keys() <= usual
        for path, content in files.items():
            assert [word for word in words if word.encode() in content] == [], f"{name}/{path}"


def whose() -> tuple[str, str, str]:
    import getpass
    import platform
    import socket

    assert platform.node() == socket.gethostname()
    return getpass.getuser(), socket.gethostname(), Path.home().name


def test_the_clients_machine_is_told_by_its_names(client):
    assert client.run(whose) == (PERSON, HOST, PERSON)
