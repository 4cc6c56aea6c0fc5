"""Cards of learngenes, figures on cards, and what may go to the Hub. The Hub itself is in test_online.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from hf_learngene import AutoLearngene, errors, push_resized, resize
from hf_learngene.cli import app
from hf_learngene.hub import push_folder
from hf_learngene.hub.card import model_card
from hf_learngene.hub.card_parts import Result
from hf_learngene.learngenes import registered_learngenes
from hf_learngene.learngenes.card import learngene_card
from testing.families import tiny_model


def learngene(kind="sws", **options):
    return AutoLearngene.from_ancestry(tiny_model("bert", "BertForSequenceClassification"), kind, **options)


def examples(count=12):
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(5, 60, (6,), generator=generator).tolist(), "labels": i % 3} for i in range(count)
    ]


# ---- cards


@pytest.mark.parametrize("kind", sorted(registered_learngenes()))
def test_a_learngene_is_saved_with_its_card(kind, tmp_path):
    made = learngene(kind)
    made.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == ["learngene", kind, "bert"]
    assert card.data.pipeline_tag == "text-classification"
    assert f"`{kind}`" in card.text
    assert f"{made.stored_share:.1%}" in card.text
    paper = made.config.paper
    if paper is not None:
        assert f"[{paper.title}]({paper.url})" in card.text
        assert paper.arxiv in paper.url if paper.arxiv else paper.venue in card.text
    assert "no size is validated" in card.text


def test_the_code_on_a_learngenes_card_runs(tmp_path, monkeypatch):
    made = learngene()
    made.save_pretrained(tmp_path / "genes")
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(learngene_card(made, "genes").split("```python\n")[1].split("```")[0], scope)
    assert scope["model"].config.num_hidden_layers == 2


def test_what_was_measured_travels_with_a_learngene(tmp_path):
    made = learngene()
    records = made.validate(
        examples(), [{"num_hidden_layers": 2}, {}], dataset="me/data", split="validation", use_cpu=True
    )
    model = made.initialize(num_hidden_layers=2)
    with torch.no_grad():
        right = [int(model(torch.tensor([e["input_ids"]])).logits.argmax()) == e["labels"] for e in examples()]
    assert records[0]["metrics"] == {"accuracy": pytest.approx(sum(right) / len(right))}
    made.add_result("me/data", {"accuracy": 0.5}, split="validation")
    made.save_pretrained(tmp_path)
    again = AutoLearngene.from_pretrained(tmp_path)
    assert again.config.results == [records[0], {**records[1], "metrics": {"accuracy": 0.5}}]
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.datasets, data.metrics) == (["me/data"], ["accuracy"])
    first, second = sorted(data.eval_results, key=lambda r: r.metric_name)
    assert (first.metric_value, first.dataset_split, second.metric_name) == (
        0.5,
        "validation",
        "accuracy (num_hidden_layers=2)",
    )
    with pytest.raises(errors.InvalidSizeError):
        made.add_result("me/data", {"accuracy": 1.0}, hidden_size=48)
    with pytest.raises(errors.TrainingDataError, match="no labels"):
        made.validate([{"input_ids": [5, 6]}], [{}], dataset="x", use_cpu=True)


def test_a_card_that_somebody_wrote_stays(tmp_path):
    made = learngene()
    made.save_pretrained(tmp_path)
    made.add_result("me/data", {"accuracy": 0.5})
    made.save_pretrained(tmp_path)
    assert "me/data" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    made.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_licence_of_a_learngene_is_its_ancestrys(tmp_path):
    tiny_model("bert", "BertModel").save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "README.md").write_text("---\nlicense: mit\n---\n")
    made = AutoLearngene.from_ancestry(str(tmp_path / "source"), "tleg")
    data = ModelCard(learngene_card(made)).data
    assert (data.license, data.base_model) == ("mit", None)
    assert str(tmp_path) not in learngene_card(made)
    made.config.ancestry, made.config.ancestry_commit = "google/bert", "0" * 40
    assert ModelCard(learngene_card(made)).data.base_model == "google/bert"


def test_figures_stand_on_the_card_of_a_resized_model():
    small = resize(tiny_model("bert", "BertForSequenceClassification"), hidden_size=16, calibration=None)
    card = model_card(small, name="me/small", results=[Result("sst2", {"accuracy": 0.91234}, "validation")])
    assert "| this | sst2, validation | accuracy | 0.9123 |" in card
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_value, result.task_type) == (0.91234, "text-classification")


def test_a_refitted_model_works_as_it_is():
    source = tiny_model("bert", "BertForSequenceClassification")
    given = {"calibration": examples(96), "intermediate_size": 20}
    assert "**Works as it is" in model_card(resize(source, **given))
    assert "**Works as it is" in model_card(resize(source, num_hidden_layers=5, **given))
    assert "**Needs training.**" in model_card(resize(source, num_labels=7, **given))
    assert "**Needs training.**" in model_card(resize(source, intermediate_size=20, calibration=None))


def test_fewer_tokens_are_no_loss():
    source = tiny_model("bert", "BertForMaskedLM")
    kept = list(range(30))
    card = model_card(resize(source, kept_tokens=kept))
    assert "**Function-preserving on the tokens that stayed.**" in card
    assert "the rows of the tokens that are kept" in card
    assert "**Needs training.**" in model_card(resize(source, vocab_size=30))
    assert "**Needs training.** It is a start" in model_card(
        resize(source, kept_tokens=kept, hidden_size=16, calibration=None)
    )


def test_a_descendant_names_its_learngene(tmp_path):
    made = learngene("wave")
    made.save_pretrained(tmp_path / "genes")
    card = model_card(AutoLearngene.from_pretrained(tmp_path / "genes").initialize(num_hidden_layers=5))
    assert "**wave**: weight templates joined by scalers" in card
    assert "This is `genes`" in card
    assert "2406.17503" in card


# ---- what goes up


def test_only_the_model_goes_up(uploads, tmp_path):
    made = learngene()
    made.save_pretrained(tmp_path / "genes")
    for leftover in (
        "checkpoint-1/model.safetensors",
        "training_args.bin",
        "runs/now/events.out.tfevents.1",
        ".hidden",
    ):
        path = tmp_path / "genes" / leftover
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    state = tmp_path / "genes" / "checkpoint-1" / "trainer_state.json"
    state.write_text(
        json.dumps({"best_model_checkpoint": str(tmp_path)}) + str(tmp_path) + "/x"
    )  # stays here, and so may tell
    push_folder(tmp_path / "genes", "me/genes")
    ((repo, files),) = uploads
    assert (repo, sorted(files)) == ("me/genes", ["README.md", "config.json", "model.safetensors"])


def test_a_resized_model_goes_up_with_its_card(uploads):
    small = resize(tiny_model("bert", "BertForSequenceClassification"), hidden_size=16, calibration=None)
    push_resized(small, "me/small", results=[Result("sst2", {"accuracy": 0.5})])
    ((_, files),) = uploads
    assert json.loads(files["config.json"])["hidden_size"] == 16
    assert b'from_pretrained("me/small")' in files["README.md"]
    assert b"model-index" in files["README.md"]


def test_a_learngene_goes_up_under_its_name(uploads):
    learngene().push_to_hub("me/genes", tags=["mine"])
    ((_, files),) = uploads
    assert b'from_pretrained("me/genes")' in files["README.md"]
    assert b"- mine" in files["README.md"]


@pytest.mark.parametrize("file", ["config.json", "README.md", "notes/how.txt"])
def test_what_tells_of_the_machine_stays_here(uploads, tmp_path, file):
    learngene().save_pretrained(tmp_path / "genes")
    path = tmp_path / "genes" / file
    path.parent.mkdir(exist_ok=True)
    content = (
        json.loads(path.read_text()) | {"x": f"{tmp_path}/data"} if file == "config.json" else f"see {tmp_path}/data"
    )
    path.write_text(json.dumps(content))
    with pytest.raises(errors.OutputError, match=r"tells of this machine.*nothing was uploaded"):
        push_folder(tmp_path / "genes", "me/genes")
    assert not uploads


def test_what_tells_of_the_machine_in_a_header_stays_here(uploads, tmp_path):
    from safetensors.torch import load_file, save_file

    learngene().save_pretrained(tmp_path / "genes")
    weights = tmp_path / "genes" / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt", "made_in": f"{tmp_path}/x"})
    with pytest.raises(errors.OutputError, match=r"model\.safetensors"):
        push_folder(tmp_path / "genes", "me/genes")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("see https://host/data/x", False),
        ("git@host:me/data/x, ./data/x, ~/data/x, host-1/data/", False),
        ("https://huggingface.co/anna/x, /homes/anna, /home/annabel, /home/anna-lena/x", False),
        ("in /data/x", True),
        ('"/data/x"', True),
        ("file:///data/x", True),
        ("DIR=/data/x", True),
        ('{"home": "/home/anna"}', True),
        ("/srv/people/anna", True),
        ("/srv/people/annabel", False),
        ("/mnt/home/anna/x", True),
        ("/Users/anna/x", True),
        ("C:\\\\Users\\\\anna", True),
    ],
)
def test_a_place_is_told_apart_from_an_address(uploads, tmp_path, monkeypatch, text, told):
    learngene().save_pretrained(tmp_path / "genes")
    (tmp_path / "genes" / "notes.txt").write_text(text)
    monkeypatch.setattr(Path, "cwd", lambda: Path("/data"))
    for name, value in {"HOME": "/srv/people/anna", "LOGNAME": "anna", "USER": "anna"}.items():
        monkeypatch.setenv(name, value)
    if told:
        with pytest.raises(errors.OutputError, match=r"notes\.txt.*tells of this machine"):
            push_folder(tmp_path / "genes", "me/genes")
    else:
        push_folder(tmp_path / "genes", "me/genes")
    assert len(uploads) == (not told)


def test_what_is_no_model_stays_here(uploads, tmp_path):
    with pytest.raises(errors.OutputError, match="no saved model"):
        push_folder(tmp_path, "me/x")
    with pytest.raises(errors.OutputError, match="no name for a repository"):
        push_folder(tmp_path, "me/a/b")
    with pytest.raises(errors.ProvenanceError):
        push_resized(tiny_model("bert", "BertModel"), "me/x")
    assert not uploads


# ---- the command


def test_the_command_writes_a_missing_card(uploads, tmp_path):
    small = resize(tiny_model("bert", "BertForSequenceClassification"), hidden_size=16, calibration=None)
    small.save_pretrained(tmp_path / "small")
    learngene().save_pretrained(tmp_path / "genes")
    (tmp_path / "genes" / "README.md").unlink()
    for name in ("small", "genes"):
        done = CliRunner().invoke(app, ["push", str(tmp_path / name), f"me/{name}"])
        assert done.exit_code == 0, done.output
        assert "Published: https://" in done.output
    for (_, files), name in zip(uploads, ("small", "genes"), strict=True):
        assert f'from_pretrained("me/{name}")' in files["README.md"].decode()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """What `build` and `resize` leave, of a model with a licence: `genes`, with a result on record, and `small`."""
    monkeypatch.chdir(tmp_path)
    tiny_model("bert", "BertForSequenceClassification", dtype=torch.float32).save_pretrained("source")
    Path("source", "README.md").write_text("---\nlicense: mit\n---\n")
    build = ["build", "source", "genes", "--learngene-type", "sws", "--option", "num_stages=3", "--steps", "0"]
    for arguments in (build, ["resize", "source", "small", "--hidden-size", "16"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    genes = AutoLearngene.from_pretrained("genes")
    genes.add_result("me/data", {"accuracy": 0.5})
    genes.save_pretrained("genes")
    return tmp_path


def loaded_by(card):
    return set(re.findall(r'from_pretrained\("(.*?)"\)', card))


@pytest.mark.parametrize(("name", "kept"), [("genes", "| this | me/data, test | accuracy | 0.5 |"),
                                            ("small", "| hidden_size | 24 | 16 |")])  # fmt: skip
def test_an_untouched_card_goes_up_under_the_repositorys_name(uploads, folders, name, kept):
    before = (folders / name / "README.md").read_text()
    assert loaded_by(before) == {"path/or/repository" if name == "genes" else "small"}
    done = CliRunner().invoke(app, ["push", name, "me/published"])
    assert done.exit_code == 0, done.output
    ((_, files),) = uploads
    card = files["README.md"].decode()
    assert loaded_by(card) == {"me/published"}
    assert "\n# published\n" in card
    data = ModelCard(card).data
    assert (data.license, data.model_name) == ("mit", "published" if name == "genes" else None)
    assert kept in card
    assert len(card.splitlines()) == len(before.splitlines())
    assert (folders / name / "README.md").read_text() == before


@pytest.mark.parametrize("name", ["genes", "small"])
def test_a_card_that_was_taken_over_goes_up_as_it_is(uploads, folders, name):
    path = folders / name / "README.md"
    lines = [line for line in path.read_text().splitlines(keepends=True) if not line.startswith("<!--")]
    assert len(lines) == len(path.read_text().splitlines()) - 1
    path.write_text("".join(lines))
    push_folder(folders / name, "me/published")
    assert uploads[0][1]["README.md"].decode() == "".join(lines)


@pytest.mark.parametrize(("folder", "name", "says"), [("empty", "me/x", "no saved model"), ("genes", "a b", "no name for"),
                                                      ("plain", "me/x", "was not resized by this package")])  # fmt: skip
def test_the_command_says_what_is_wrong(uploads, tmp_path, folder, name, says):
    (tmp_path / "empty").mkdir()
    learngene().save_pretrained(tmp_path / "genes")
    tiny_model("bert", "BertModel").save_pretrained(tmp_path / "plain")
    done = CliRunner().invoke(app, ["push", str(tmp_path / folder), name])
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())
    assert not uploads
