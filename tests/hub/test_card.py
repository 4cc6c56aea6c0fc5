"""The card says what the model is, and nothing of the machine it was made on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import BertForMaskedLM

from hf_learngene import AutoModelForMaskedLM, plan, resize
from hf_learngene.errors import ProvenanceError
from hf_learngene.hub.card import model_card
from hf_learngene.hub.card_parts import Result, is_ours, renamed
from hf_learngene.hub.origin import recorded_source
from hf_learngene.hub.save import save_resized
from hf_learngene.methods import METHODS
from testing.families import tiny_model
from testing.method_tester import MethodTester, shipped
from testing.saving import cached, tokenizer


PATTERN = r"""---
base_model: user/tiny
library_name: transformers
license: mit
pipeline_tag: fill-mask
tags:
- learngene
- resized
- weight_selection
---

# tiny-small

This is \[user/tiny\]\(https://huggingface.co/user/tiny\) \(commit `0{40}`\) at another size, .* `BertForMaskedLM` .*

\*\*Needs training\.\*\* .*

## Use

```python
from transformers import AutoTokenizer, BertForMaskedLM

tokenizer = AutoTokenizer\.from_pretrained\("me/tiny-small"\)
model = BertForMaskedLM\.from_pretrained\("me/tiny-small"\)
```

## Sizes

\|  \| source \| this model \|
\| --- \| ---: \| ---: \|
\| hidden_size \| 24 \| 16 \|
\| num_hidden_layers \| 3 \| 2 \|
(\| \w+ \| \d+ \| \d+ \|
)+\| parameters \| [\d,]+ \| [\d,]+ \|
\| dtype \| \w+ \| float32 \|

## Method

\*\*weight_selection\*\*: .* \(`element_selection='uniform'`, .*\)\. \[Initializing .*\]\(https://arxiv\.org/abs/2311\.18823\)\.

```bibtex
@misc\{arxiv2311\.18823,
  title = \{\{Initializing Models with Larger Ones\}\},
  year = \{2023\},
(  \w+ = \{.*\},?
)+\}
```

## Provenance

Made by `hf_learngene` \d+\.\d+\.\w+ with seed 3\. .* `weights` are digests .*

```json
\{(.|\n)+\}
```

<!-- Written by hf_learngene .* remove this line to keep what you change\. -->
"""


@pytest.fixture
def source(tmp_path):
    """A checkpoint with a licence and a tokenizer."""
    folder = tmp_path / "tiny"
    tiny_model("bert", "BertForMaskedLM", dtype=torch.float32).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n\n# tiny\n")
    return folder


def test_the_card_of_a_model_from_the_hub(source, tmp_path):
    name = cached(source, tmp_path / "cache")
    loading = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "calibration": None}
    model = AutoModelForMaskedLM.from_pretrained_resized(name, seed=3, **sizes, **loading)
    made = plan(name, seed=3, **sizes, **loading)
    card = model_card(model, plan=made, source=name, loading=loading, name="me/tiny-small")
    assert re.fullmatch(PATTERN, card), card
    assert ModelCard(card).data.tags == ["learngene", "resized", "weight_selection"]


def test_a_local_source_is_named_but_not_linked(source, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained_resized(source, hidden_size=16, calibration=None)
    card = model_card(model, plan=plan(source, hidden_size=16), source=source)
    assert ModelCard(card).data.base_model is None
    assert "This is `tiny` at another size" in card
    assert ModelCard(card).data.license == "mit"
    assert str(tmp_path) not in card
    assert "/tmp" not in card


def test_what_is_on_record_decides_whether_the_source_is_linked(source, tmp_path):
    local = AutoModelForMaskedLM.from_pretrained_resized(source, hidden_size=16, calibration=None)
    assert ModelCard(model_card(local, source="me/small")).data.base_model is None  # `tiny` would be somebody else's
    assert recorded_source(local.config) == (None, {})
    name = cached(source, tmp_path / "cache")
    loading = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    model = AutoModelForMaskedLM.from_pretrained_resized(name, hidden_size=16, calibration=None, **loading)
    model.save_pretrained(tmp_path / "small")
    again = BertForMaskedLM.from_pretrained(tmp_path / "small")
    for place in (tmp_path / "small", "me/small", None):
        assert ModelCard(model_card(again, source=place)).data.base_model == "user/tiny"
    assert recorded_source(again.config) == ("user/tiny", {"revision": "0" * 40})


def test_a_card_of_ours_is_known_and_renamed(source):
    made = plan(source, hidden_size=16)
    results = [Result("sst2", {"accuracy": 0.5})]
    card = model_card(made, source=source, name="small", results=results)
    assert is_ours(card)
    assert not is_ours(card.replace("<!-- Written by hf_learngene", "<!-- "))
    assert ModelCard(renamed(card, "me/2024")).data.to_dict() == (
        ModelCard(model_card(made, source=source, name="me/2024", results=results)).data.to_dict()
    )
    assert ModelCard(renamed(card, "me/2024")).text == (
        ModelCard(model_card(made, source=source, name="me/2024", results=results)).text
    )


@pytest.mark.parametrize("has", [True, False])
def test_the_card_names_the_tokenizer_that_lies_beside_the_model(source, tmp_path, has):
    model = AutoModelForMaskedLM.from_pretrained_resized(source, hidden_size=16, calibration=None)
    out = save_resized(model, tmp_path / "small", source=source)
    for file in () if has else out.glob("tokenizer*"):
        file.unlink()
    assert ("AutoTokenizer" in model_card(model, source=source, folder=tmp_path / "small")) == has


def test_the_code_on_the_card_runs(source, tmp_path, monkeypatch):
    model = AutoModelForMaskedLM.from_pretrained_resized(source, hidden_size=16, calibration=None)
    card = model_card(model, source=source, name="small")
    save_resized(model, tmp_path / "small", source=source, card=card)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], scope)
    assert scope["model"].config.hidden_size == 16
    assert scope["tokenizer"].model_max_length == 40


def test_a_model_without_tokenizer_is_loaded_without_one(source):
    model = AutoModelForMaskedLM.from_pretrained_resized(source, hidden_size=16, calibration=None)
    for file in source.glob("tokenizer*"):
        os.remove(file)
    assert "AutoTokenizer" not in model_card(model, source=source)
    assert "AutoTokenizer" not in model_card(model)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"num_hidden_layers": 5}, "**Function-preserving.**"),
        ({"hidden_size": 48}, "**Function-preserving.**"),
        ({"hidden_size": 32, "method": "lemon", "allow_lossy": True}, "**Needs training.** It is a start"),
        ({"hidden_size": 16}, "**Needs training.** It is a start"),
        ({"hidden_size": 16, "num_hidden_layers": 5}, "**Needs training.** It is a start"),
        ({"hidden_size": 16, "vocab_size": 50}, "Besides, the vocabulary is another."),
        ({"hidden_size": 48, "vocab_size": 70}, "grown without loss, but the vocabulary is another."),
        ({"hidden_size": 16, "method": "random"}, "Every weight is random"),
        ({"method": "layers", "layer_map": [0, 2]}, "**Needs training.** It is a start"),
    ],
)
def test_it_says_whether_training_is_needed(sizes, says):
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    assert says in model_card(resize(model, calibration=None, **sizes))


def test_a_head_that_the_source_did_not_have_needs_training(source):
    from transformers import BertForTokenClassification

    made = plan(source, model_class=BertForTokenClassification, num_hidden_layers=5)
    assert "its head is not that of its source (`BertForMaskedLM`)" in model_card(made)


def test_a_mixed_resize_names_both_methods():
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    card = model_card(resize(model, hidden_size=16, num_hidden_layers=5))
    assert ModelCard(card).data.tags == ["learngene", "resized", "calibrated", "lemon"]
    assert ModelCard(card).data.pipeline_tag == "image-classification"
    assert card.count("```bibtex") == 1  # of calibrated there is no paper


def test_every_method_with_a_paper_is_cited():
    model = tiny_model("bert", "BertForSequenceClassification", dtype=torch.float32)
    for name in shipped():
        tester, paper = MethodTester(name, model), METHODS[name].paper
        card = model_card(tester.resized(tester.directions[0]))
        assert (paper is None) == ("```bibtex" not in card)
        if paper:
            assert f"[{paper.title}]({paper.url})" in card
        assert ModelCard(card).data.pipeline_tag == "text-classification"


def test_a_plan_has_a_card_too(source):
    made = plan(source, hidden_size=16)
    card = model_card(made, source=source)
    assert "| hidden_size | 24 | 16 |" in card
    assert f"| {made.source_parameters:,} | {made.num_parameters:,} |" in card


def test_parameters_are_those_of_the_model():
    model = resize(tiny_model("bert", "BertForMaskedLM", dtype=torch.float32), hidden_size=16, calibration=None)
    assert f"| parameters | {model.num_parameters():,} |" in model_card(model)


def test_earlier_resizes_are_told():
    model = tiny_model("bert", "BertModel", dtype=torch.float32)
    card = model_card(resize(resize(model, method="calibrated", hidden_size=16), num_hidden_layers=5))
    assert card.count('"method": "calibrated"') == 1
    assert card.count('"method": "lemon"') == 1


def test_a_licence_of_its_own_is_carried_whole(source):
    (source / "README.md").write_text("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n")
    data = ModelCard(model_card(plan(source, hidden_size=16), source=source)).data
    assert (data.license, data.license_name, data.license_link) == ("other", "mine", "LICENSE")


@pytest.mark.parametrize("text", ["no metadata", "---\n: [broken\n---\n", ""])
def test_a_readme_that_cannot_be_read_carries_no_licence(source, text):
    Path(source / "README.md").write_text(text)
    assert ModelCard(model_card(plan(source, hidden_size=16), source=source)).data.license is None


def test_a_model_that_was_not_resized_has_no_card():
    with pytest.raises(ProvenanceError, match="was not resized"):
        model_card(tiny_model("bert", "BertModel", dtype=torch.float32))


CALIBRATION = {
    "examples": "synthetic", "count": 512, "tokens": 9000, "agreement": {"kind": "same top class", "value": 0.9375, "count": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (CALIBRATION, "It was calibrated on 512 made-up examples (9,000 tokens), so no data was needed. It agrees"),
        ({**CALIBRATION, "examples": "given"}, "on 512 unlabelled examples that were given (9,000 tokens). It agrees"),
        ({"examples": "given and synthetic", "count": 600}, "on 600 unlabelled examples, some given and the others made up.\n"),
        ({"examples": "synthetic"}, "It was calibrated on made-up examples, so no data was needed.\n"),
        ({"agreement": CALIBRATION["agreement"]}, "\n\nIt agrees with the source on 93.8 % of 64 held-back examples.\n"),
        ({"agreement": {**CALIBRATION["agreement"], "commonest": 0.96875}}, "examples, which says little, for 96.9 % of its"),
        ({"agreement": {**CALIBRATION["agreement"], "commonest": "all"}}, "93.8 % of 64 held-back examples.\n"),
        ({"agreement": {"kind": "<b>", "value": 0.5, "count": 3}}, "&lt;b&gt; 0.500 on 3 held-back examples"),
    ],
)  # fmt: skip
def test_it_says_what_the_model_was_calibrated_on_until_it_is_trained(source, tmp_path, told, says):
    model = AutoModelForMaskedLM.from_pretrained_resized(source, hidden_size=16, calibration=None)
    model.config.learngene["calibration"] = told
    card = model_card(model)
    assert says in card
    save_resized(model, tmp_path / "small", source=source)
    assert says in (tmp_path / "small" / "README.md").read_text()
    with torch.no_grad():
        model.get_input_embeddings().weight[3] += 1
    assert "It was calibrated" not in model_card(model)
    assert "held-back" not in model_card(model)


@pytest.mark.parametrize(
    "told", [{}, {"count": "many"}, {"examples": 3, "agreement": [1]}, {"agreement": {"kind": "x"}}]
)
def test_it_says_nothing_of_calibration_that_is_not_on_record(source, told):
    model = AutoModelForMaskedLM.from_pretrained_resized(source, hidden_size=16, calibration=None)
    before = model_card(model)
    model.config.learngene["calibration"] = told
    after = model_card(model)
    assert after.partition("## Use")[0] == before.partition("## Use")[0]


def test_a_record_of_calibration_in_another_form_is_refused(source):
    model = AutoModelForMaskedLM.from_pretrained_resized(source, hidden_size=16, calibration=None)
    model.config.learngene["calibration"] = "synthetic"
    with pytest.raises(ProvenanceError, match="its calibration is 'synthetic'"):
        model_card(model)
