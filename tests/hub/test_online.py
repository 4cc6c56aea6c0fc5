"""The package and a Hub: the real client over loopback, what it loads, and what comes between. Pushes: test_online_push.py."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.utils import HfHubHTTPError, sha
from transformers import AutoModel, AutoTokenizer, BertForSequenceClassification, Trainer, TrainingArguments

from hf_learngene import (
    AutoLearngene,
    AutoModelForSequenceClassification,
    plan,
    push_resized,
    resize,
)
from hf_learngene.hub.save import save_resized
from testing.families import tiny_model
from testing.hub import GUEST, OWNER, Fault
from testing.hub_client import JobError
from testing.hub_jobs import CARD, OPTIONS, classifier, cli, same
from testing.numerics import assert_all_close_for
from testing.saving import WORDS, tokenizer
from testing.training import Texts


pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs run in forks"), pytest.mark.usefixtures("hub")]
WEIGHTS = "GET /storage/"


@pytest.fixture(scope="module")
def bert(served, tmp_path_factory):
    """`user/bert` in two commits with other weights and tokenizers, the first tagged `v1`: both, oldest first."""
    commits = []
    served.create("user/bert")
    for seed, limit in ((0, 30), (1, 40)):
        folder = tmp_path_factory.mktemp("bert")
        classifier(seed).save_pretrained(folder)
        tokenizer(limit).save_pretrained(folder)
        commits.append(served.upload("user/bert", folder, **{"README.md": CARD}))
    served.repos["user/bert"].tags["v1"] = commits[0]
    for name, switches in {"user/private": {"private": True}, "user/gated": {"gated": True}}.items():
        served.create(name, **switches)
        served.upload(name, folder)
    return commits


# ---- jobs


def survey(name: str) -> None:
    """The client takes what this Hub says for what the Hub says."""
    api = HfApi()
    assert api.whoami()["name"] == "user"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(name)
    assert api.create_repo(name, exist_ok=True).repo_id == name
    api.create_tag(name, tag="v2")
    info = api.model_info(name, revision="v2", files_metadata=True)
    refs = api.list_repo_refs(name, include_pull_requests=True)
    assert {b.ref: b.target_commit for b in refs.branches} == {"refs/heads/main": info.sha}
    assert {t.ref: t.target_commit for t in refs.tags}["refs/tags/v2"] == info.sha
    assert (refs.converts, refs.pull_requests) == ([], [])
    listed = {f.path: (f.size, f.blob_id, f.lfs and f.lfs.sha256) for f in api.list_repo_tree(name)}
    assert {f.rfilename: (f.size, f.blob_id, f.lfs and f.lfs.sha256) for f in info.siblings} == listed
    for path, (size, blob, sha256) in listed.items():
        with open(api.hf_hub_download(name, path), "rb") as file:
            content = file.read()
        assert (len(content), sha.git_hash(content)) == (size, blob)
        assert sha256 in (None, sha.sha256(content).hexdigest())


def push_learngene(kind: str, name: str, depth: int) -> dict[str, torch.Tensor]:
    learngene = AutoLearngene.from_ancestry(classifier(), kind, **OPTIONS[kind])
    learngene.push_to_hub(name)
    return learngene.initialize(num_hidden_layers=depth).state_dict()


def initialize(name: str, depth: int, output: Path):
    """(weights, config.learngene) of a descendant, and its weights after a step of training."""
    learngene = AutoLearngene.from_pretrained(name)
    plain = AutoModel.from_pretrained(name)
    assert type(plain) is type(learngene)
    assert same(plain.state_dict(), learngene.state_dict())
    model = learngene.initialize(num_hidden_layers=depth)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    arguments = TrainingArguments(
        str(output), max_steps=1, report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True
    )
    Trainer(model, arguments, train_dataset=Texts(8)).train()
    return before, model.config.learngene, model.state_dict()


def load_resized(name: str = "user/bert", **given):
    model = AutoModelForSequenceClassification.from_pretrained_resized(name, hidden_size=16, calibration=None, **given)
    return model.state_dict(), model.config.learngene


def plan_text(name: str, **given) -> str:
    return str(plan(name, hidden_size=16, calibration=None, **given))


def load_learngene(name: str, **given) -> None:
    AutoLearngene.from_pretrained(name, **given)


def save(name: str, output: Path, **loading) -> list[str]:
    model = AutoModelForSequenceClassification.from_pretrained_resized(
        name, max_position_embeddings=20, hidden_size=16, calibration=None, **loading
    )
    return sorted(os.listdir(save_resized(model, output, source=name, loading=loading)))


def push_version(name: str, revision: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained_resized(
        "user/bert", hidden_size=16, calibration=None, revision=revision
    )
    push_resized(model, name)


def ancestry() -> str | None:
    return AutoLearngene.from_ancestry("user/bert", "sws", **OPTIONS["sws"]).config.ancestry_commit


# ---- from one machine to another


def test_the_client_knows_this_hub_for_one(hub, client, bert):
    client.run(survey, "user/bert")
    assert hub.repos["user/bert"].tags["v2"] == bert[1]


@pytest.mark.parametrize("kind", ["sws", "wave"])
def test_a_pushed_learngene_gives_the_same_models_elsewhere(hub, client, kind, tmp_path):
    wanted = client.run(push_learngene, kind, f"user/{kind}", 5)
    assert hub.files(f"user/{kind}").keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    found, record, trained = client.run(initialize, f"user/{kind}", 5, tmp_path, login=None)
    assert_all_close_for(found, wanted)  # products of weights that were read from a file
    assert record["source"] == f"user/{kind}"
    assert not same(trained, found)


def test_a_descendant_names_the_commit_of_its_learngene(hub, client, tmp_path):
    client.run(push_learngene, "sws", "user/named", 5)
    _, record, _ = client.run(initialize, "user/named", 5, tmp_path)
    assert record["source_commit"] == hub.head("user/named")


def test_a_learngene_names_the_commit_of_its_ancestry(client, bert):
    assert client.run(ancestry) == bert[1]


# ---- revisions


def test_a_revision_is_pinned(client, bert):
    old, new = (resize(classifier(seed), hidden_size=16, calibration=None).state_dict() for seed in (0, 1))
    for revision, commit, wanted in (("v1", bert[0], old), (bert[0], bert[0], old), (None, bert[1], new)):
        found, record = client.run(load_resized, **({"revision": revision} if revision else {}))
        assert same(found, wanted)
        assert (record["source"], record["source_commit"]) == ("user/bert", commit)


@pytest.fixture
def moving(hub, bert, tmp_path):
    """The head of `user/moving`, where another model takes its place as soon as its config was asked for."""
    other = tiny_model("bert", "BertForSequenceClassification", {"num_hidden_layers": 2}, torch.float32)
    other.save_pretrained(tmp_path / "other")
    hub.create("user/moving")
    before = hub.commit("user/moving", hub.repos["user/bert"].commits[bert[1]])

    def move(request):
        if "config.json" in request.path and hub.head("user/moving") == before:
            hub.upload("user/moving", tmp_path / "other")

    hub.watch = move
    return before


def test_a_commit_in_mid_load_changes_nothing(hub, client, moving):
    found, record = client.run(load_resized, "user/moving")
    assert hub.head("user/moving") != moving
    assert same(found, resize(classifier(1), hidden_size=16, calibration=None).state_dict())
    assert record["source_commit"] == moving


def test_a_commit_in_mid_command_changes_nothing(client, moving, tmp_path):
    assert (
        client.run(cli, "resize", "user/moving", tmp_path / "out", "--hidden-size", 16, "--calibration", "none")[0]
        == 0
    )
    made = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert same(made.state_dict(), resize(classifier(1), hidden_size=16, calibration=None).state_dict())
    assert made.config.learngene["source_commit"] == moving


def test_a_pushed_model_has_the_tokenizer_of_its_revision(hub, client, bert):
    client.run(push_version, "user/version", "v1")
    assert json.loads(hub.files("user/version")["tokenizer_config.json"])["model_max_length"] == 30


def test_a_plan_fetches_only_the_config(hub, client, bert):
    assert "hidden_size 24 → 16" in client.run(plan_text, "user/bert")
    assert {r.path.rpartition("/")[2] for r in hub.asked("/resolve/|/storage/")} == {"config.json"}
    status, out, _ = client.run(
        cli, "plan", "user/bert", "--hidden-size", 16, "--calibration", "none", "--revision", "v1"
    )
    assert (status, "hidden_size 24 → 16" in out) == (0, True)
    assert not hub.asked("/storage/")


def test_what_prepares_the_inputs_comes_along(hub, client, bert, tmp_path):
    names = client.run(save, "user/bert", tmp_path / "out")
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    carried = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (carried.get_vocab().keys(), carried.model_max_length) == (set(WORDS), 20)
    assert len(hub.asked(WEIGHTS)) == 1


def test_the_command_line_resizes_a_revision(client, bert, tmp_path):
    arguments = ("--hidden-size", 16, "--calibration", "none", "--revision", "v1")
    status, out, err = client.run(cli, "resize", "user/bert", tmp_path / "out", *arguments)
    assert (status, err) == (0, "")
    names = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(os.listdir(tmp_path / "out")) == names
    made = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert same(made.state_dict(), resize(classifier(), hidden_size=16, calibration=None).state_dict())
    assert made.config.learngene["source_commit"] == bert[0]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 30
    card = (tmp_path / "out" / "README.md").read_text()
    assert {"license: mit", "base_model: user/bert"} <= set(card.splitlines())
    assert bert[0] in card


# ---- what is not for everybody, or not there


def test_the_owner_reads_what_is_private_or_gated(hub, client, bert):
    wanted = resize(classifier(1), hidden_size=16, calibration=None).state_dict()
    assert same(client.run(load_resized, "user/gated")[0], wanted)
    assert same(client.run(load_resized, "user/private", login=None, token=OWNER)[0], wanted)
    assert not [r for r in hub.asked(WEIGHTS) if "Authorization" in r.headers]


# repository, token, keywords, and what the message names
REFUSED = {
    "private, no token": ("user/private", None, {}, "pass a token"),
    "private, another's token": ("user/private", GUEST, {}, "pass a token"),
    "wrong token": ("user/bert", "hf_wrong", {}, "Invalid credentials"),
    "gated": ("user/gated", GUEST, {}, "gated repo"),
    "missing": ("user/absent", OWNER, {}, "not a valid model identifier"),
    "missing revision": ("user/bert", OWNER, {"revision": "v9"}, "v9 is not a valid git identifier"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(client, bert, case, tmp_path):
    name, login, given, _ = REFUSED[case]
    with pytest.raises(JobError) as caught:
        client.run(load_resized, name, login=login, **given)
    assert "CheckpointError" in caught.value.kinds
    with pytest.raises(JobError) as caught:
        client.run(load_learngene, name, login=login, **given)
    assert "OSError" in caught.value.kinds
    flags = [part for key, value in given.items() for part in (f"--{key}", value)]
    status, _, err = client.run(
        cli, "resize", name, tmp_path / "out", "--hidden-size", 16, "--calibration", "none", *flags, login=login
    )
    assert status == 2
    assert len(err.splitlines()) == 1
    assert err.startswith(f"Error: No checkpoint `{name}` could be read: ")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_why(client, bert, case):
    name, login, given, message = REFUSED[case]
    with pytest.raises(JobError) as caught:
        client.run(plan_text, name, login=login, **given)
    assert message in caught.value.message


# ---- connections that break


@pytest.mark.parametrize(
    "fault",
    [
        Fault(WEIGHTS, after=10_000),
        Fault(WEIGHTS, after=10_000, times=math.inf),
        Fault(WEIGHTS, after=10_000, stall=3),
    ],
    ids=["cut once", "cut again and again", "silent"],
)
def test_a_broken_download_goes_on_where_it_was(hub, client, bert, fault):
    hub.faults = [fault]
    found, _ = client.run(load_resized)
    assert same(found, resize(classifier(1), hidden_size=16, calibration=None).state_dict())
    size = len(hub.files("user/bert")["model.safetensors"])
    ranges = [r.headers["Range"] for r in hub.asked(WEIGHTS)]
    # whole chunks of 4096 are kept
    starts = range(8192, size, 8192) if fault.times == math.inf else [8192]
    assert ranges == [None, *(f"bytes={start}-" for start in starts)]


@pytest.mark.parametrize("part", ["GET .*/config.json", WEIGHTS])
def test_a_download_that_never_ends_leaves_nothing_to_take_for_whole(hub, client, bert, part, tmp_path):
    cache, out = client.cache(), tmp_path / "out"
    hub.faults = [Fault(part, after=100, times=math.inf)]
    status, _, err = client.run(
        cli, "resize", "user/bert", out, "--hidden-size", 16, "--calibration", "none", cache=cache
    )
    assert status == 2
    assert err.splitlines()[-1].startswith("Error: ")
    with pytest.raises(JobError) as caught:
        client.run(load_resized, cache=cache)
    assert "CheckpointError" in caught.value.kinds
    assert os.listdir(tmp_path) == []
    hub.calm()
    found, _ = client.run(load_resized, cache=cache)
    assert same(found, resize(classifier(1), hidden_size=16, calibration=None).state_dict())


def test_a_tokenizer_that_never_arrives_does_not_lose_the_model(hub, client, bert, tmp_path):
    hub.faults = [Fault("GET .*/tokenizer.json", after=100, times=math.inf)]
    status, _, _ = client.run(
        cli, "resize", "user/bert", tmp_path / "out", "--hidden-size", 16, "--calibration", "none"
    )
    assert status == 0
    assert set(os.listdir(tmp_path / "out")) == {"README.md", "config.json", "model.safetensors"}


def test_a_hub_that_is_down_is_told_in_one_line(hub, client, bert, tmp_path):
    hub.faults = [Fault("user/bert", status=503, times=math.inf)]
    with pytest.raises(JobError) as caught:
        client.run(load_resized)
    assert "CheckpointError" in caught.value.kinds
    status, _, err = client.run(
        cli, "resize", "user/bert", tmp_path / "out", "--hidden-size", 16, "--calibration", "none"
    )
    assert status == 2
    assert err.splitlines()[-1].startswith("Error: No checkpoint `user/bert`")
    assert os.listdir(tmp_path) == []
