"""What a plan shows: layers, rotations and costs, as text and in notebooks; and `Plan.apply`."""

from __future__ import annotations

import html as html_module
from xml.etree import ElementTree

import pytest
import torch
import transformers

from hf_learngene import plan, resize, verify
from hf_learngene.budget.allocation import Allocation, Trial
from hf_learngene.budget.flops import flops
from hf_learngene.comparing.result import Comparison, Row
from hf_learngene.errors import UnsupportedSourceError
from testing.families import tiny_model


BERT = transformers.BertConfig
SWIN = transformers.SwinForImageClassification


def parsed(shown):
    """The cells of all tables of a piece of HTML, which has to be well formed."""
    page = ElementTree.fromstring(f"<page>{shown.replace('<br>', '<br/>')}</page>")
    return [[["".join(cell.itertext()) for cell in row] for row in table.iter("tr")] for table in page.iter("table")]


def rows_of(made, part):
    return [line for line in str(made).splitlines() if part in line]


def test_layers_that_stay_are_told_with_their_places():
    made = plan(BERT(), method="layers", layer_map=[0, 2, 4, 7, 9, 11])
    assert "layers: 0, 2, 4, 7, 9, 11 → 0–5\n" in str(made)
    (row,) = rows_of(made, "attention.self.query.weight")
    assert row.split()[:4] == ["encoder.layer.{0-5}.attention.self.query.weight", "768×768", "768×768", "kept"]
    assert row.endswith("0, 2, 4, 7, 9, 11 → 0–5")
    origin = next(t for t in made.tensors if t.name == "encoder.layer.3.output.dense.bias")
    assert (origin.origin, origin.layer, origin.source_layer) == ("kept", 3, 7)


def test_new_layers_are_told_from_those_that_stay():
    made = plan(BERT(), num_hidden_layers=14)
    assert "layers: 0–11 → 0–10, 12; new 11, 13 (copies of 10, 11)\n" in str(made)
    stay, new = rows_of(made, "attention.self.query.weight")
    assert stay.split()[0] == "encoder.layer.{0-10,12}.attention.self.query.weight"
    assert new.split()[3] == "copied"
    assert new.endswith("10, 11 → 11, 13")


def test_layers_through_two_passes_are_those_of_the_source():
    made = plan(BERT(), num_hidden_layers=6, hidden_size=1536, calibration=None)
    assert made.method == "weight_selection+lemon"
    tensor = next(t for t in made.tensors if t.name == "encoder.layer.1.output.dense.bias")
    assert (tensor.layer, tensor.source_layer) == (1, 2)


@pytest.mark.parametrize(("method", "words"), [("calibrated", "on calibration examples"), ("l2", "by the weights")])
def test_layers_that_are_still_to_be_chosen_are_not_named(method, words):
    made = plan(BERT(), method=method, num_hidden_layers=6)
    assert f"layers: 6 of 12, chosen {words}" in str(made)
    assert {t.source_layer for t in made.tensors} == {None}
    assert "→ 0–5" not in str(made)


def test_a_depth_that_stays_is_not_mentioned():
    assert "layers:" not in str(plan(BERT(), hidden_size=384))


def test_what_is_rotated_says_so():
    assert "rotated to 384 of 768" in str(plan(transformers.ViTConfig(), hidden_size=384))


def test_a_hierarchy_is_told_stage_by_stage():
    made = plan(
        transformers.SwinConfig(), model_class=SWIN, method="weight_selection", layer_selection="uniform",
        depths=[2, 2, 4, 2], calibration=None,
    )  # fmt: skip
    assert "stage 2: num_hidden_layers 6 → 4; layers 0, 1, 4, 5 → 0–3\n" in str(made)
    assert "stage 0" not in str(made)
    tensor = next(t for t in made.tensors if "layers.2.blocks.3." in t.name)
    assert (tensor.layer, tensor.source_layer) == (3, 5)


def test_costs_are_those_of_the_two_models():
    source = tiny_model("bert", "BertForMaskedLM").to(torch.bfloat16)
    source.config.dtype = torch.bfloat16
    made = plan(source, num_hidden_layers=5)
    grown = resize(source, num_hidden_layers=5)
    found = {cost.name: (cost.source, cost.target) for cost in made.costs}
    assert found["parameters"] == (source.num_parameters(), grown.num_parameters())
    assert found["bytes"] == (2 * source.num_parameters(), 2 * grown.num_parameters())
    assert found["FLOPs"] == tuple(flops(m.config, type(m)) for m in (source, grown))
    assert "in bfloat16" in str(made)


def test_time_is_measured_only_where_it_is_asked_for():
    made = plan(
        BERT(hidden_size=64, num_attention_heads=2, intermediate_size=64), num_hidden_layers=2, calibration=None
    )
    assert "latency" not in str(made)
    assert 0 < made.latency.target < made.latency.source
    assert str(made.latency) in str(made)
    assert "latency" in made._repr_html_()


def test_a_family_that_cannot_be_counted_shows_no_flops(monkeypatch):
    from hf_learngene.errors import UnsupportedFamilyError
    from hf_learngene.resizing import costs

    def refuse(*_, **__):
        raise UnsupportedFamilyError("cannot be counted")

    monkeypatch.setattr(costs, "flops", refuse)
    made = plan(BERT(), num_hidden_layers=6, calibration=None)
    assert [cost.name for cost in made.costs] == ["parameters", "bytes"]
    assert "FLOPs" not in str(made)


def test_notebooks_show_the_plan_as_tables():
    made = plan(BERT(), method="layers", layer_map=[0, 2, 4, 7, 9, 11])
    costs, tensors = parsed(made._repr_html_())
    assert [row[0] for row in costs[1:]] == ["parameters", "bytes", "FLOPs"]
    assert tensors[0] == ["tensor", "source", "target", "origin", "layers"]
    assert len(tensors) == 1 + len(
        [line for line in str(made).splitlines() if "×" in line or " 768 " in line or "3072" in line]
    )


def test_notebooks_show_other_results_as_tables():
    one = tiny_model("vit", "ViTModel")
    report = verify(one, one)
    (table,) = parsed(report._repr_html_())
    assert [row[0] for row in table[1:]] == list(report.outputs)

    trial = Trial({"hidden_size": 8}, 10, 10.0, 0.5)
    found = Allocation(
        {"hidden_size": 8}, {"hidden_size": 8}, (trial,), (trial,), Trial({"hidden_size": 16}, 20, 20.0, 0.0)
    )
    alone, whole = parsed(found._repr_html_())
    assert alone[1][0] == whole[1][0] == "hidden_size 16 → 8"
    assert whole[1][-1] == "chosen"

    rows = (Row("a<b", "random", 100, (0, 5), ((0.1, 0.4),), (1.0,)), Row("a<b", "lemon", None, cannot="it <shrinks>"))
    shown = Comparison(rows, {"metric": "accuracy"})._repr_html_()
    (table,) = parsed(shown)
    assert table[1][:4] == ["a<b", "random", "100", "0.100"]
    assert html_module.escape("it <shrinks>") in shown


@pytest.mark.parametrize(
    "wish",
    [{"hidden_size": 48}, {"hidden_size": 16, "method": "weight_selection"}, {"num_hidden_layers": 2, "method": "l2"}],
    ids=str,
)
def test_apply_is_resize(wish):
    source = tiny_model("bert", "BertForMaskedLM")
    wanted, found = resize(source, **wish), plan(source.config, model_class=type(source), **wish).apply(source)
    assert found.config.to_dict() == wanted.config.to_dict()
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), wanted.state_dict().values(), strict=True)
    )


def test_a_plan_of_a_folder_applies_to_what_it_holds(tmp_path):
    source = tiny_model("vit", "ViTForImageClassification").float()
    source.save_pretrained(tmp_path)
    made = plan(tmp_path, num_hidden_layers=5)
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path)
    assert verify(loaded, made.apply(loaded)).function_preserving


def test_apply_refuses_another_model():
    made = plan(tiny_model("bert", "BertForMaskedLM"), num_hidden_layers=5)
    with pytest.raises(UnsupportedSourceError, match="BertForMaskedLM, and this is a BertModel"):
        made.apply(tiny_model("bert", "BertModel"))
    other = tiny_model("bert", "BertForMaskedLM", {"intermediate_size": 56})
    with pytest.raises(UnsupportedSourceError, match=r"intermediate_size=40 \(here 56\)"):
        made.apply(other)
    with pytest.raises(UnsupportedSourceError, match="takes a transformers model|BertForMaskedLM"):
        made.apply(torch.nn.Linear(2, 2))
