"""Agreement is measured by what the head says, on examples that were not fitted on, and whatever state the models are in."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

from hf_learngene import resize
from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.held_back import FEWEST, MOST, held_back
from hf_learngene.errors import CalibrationError
from hf_learngene.pruning.agreement import Agreement, agreement
from hf_learngene.pruning.similarity import pooled, rank_correlation
from testing.examples import examples_for
from testing.families import tiny_model


HEADS = [
    ("bert", "BertForSequenceClassification", "same top class"),
    ("vit", "ViTForImageClassification", "same top class"),
    ("bert", "BertForTokenClassification", "same top class of each place"),
    ("bert", "BertForQuestionAnswering", "same top class of each place"),
    ("bert", "BertForMaskedLM", "same top class of each place"),
    ("bert", "BertModel", "cosine of embeddings"),
    ("vit", "ViTModel", "cosine of embeddings"),
]


def a_model(family, name):
    return tiny_model(family, name, dtype=torch.float32)


def given(model, count=20):
    return Examples(examples_for(model, count), model)


@pytest.mark.parametrize(("family", "name", "kind"), HEADS, ids=[name for _, name, _ in HEADS])
def test_the_head_says_what_is_compared_and_a_model_agrees_with_itself(family, name, kind):
    model = a_model(family, name)
    with given(model) as examples:
        found = agreement(model, model, examples)
    assert found.kind == kind
    assert found.value == pytest.approx(1.0)
    places = sum(8 + i % 5 for i in range(20))  # padding is no place
    assert found.count == {"BertForQuestionAnswering": 40}.get(name, 20 if "place" not in kind else places)


def test_a_share_is_that_of_equal_answers():
    model = a_model("bert", "BertForSequenceClassification")
    other = resize(model, num_hidden_layers=1, method="weight_selection")
    with given(model, 70) as examples, torch.no_grad():
        found = agreement(model, other, examples)
        same = [model(**b).logits.argmax(1) == other(**b).logits.argmax(1) for b in examples.batches()]
        answers = torch.cat([model(**b).logits.argmax(1) for b in examples.batches()]).bincount()
    assert found.value == pytest.approx(torch.cat(same).double().mean().item())
    assert 0 < found.value < 1
    assert found.commonest == pytest.approx(int(answers.max()) / 70)


@pytest.mark.parametrize(("commonest", "told"), [(None, False), (0.89, False), (0.9, True), (1.0, True)])
def test_agreeing_on_one_answer_is_said_to_say_little(commonest, told):
    assert ("says little" in str(Agreement("same top class", 1.0, 64, commonest))) is told


def test_a_masked_token_is_what_counts_where_the_mask_is_known():
    model = a_model("bert", "BertForMaskedLM")
    model.config.mask_token_id = 4
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with given(model) as examples:
        found = agreement(model, model, examples)
        (batch,) = examples.batches()
    masked = (seen[0] == 4) & (batch["input_ids"] != 4)
    assert found.kind == "same top token"
    assert found.count == int(masked.sum())
    assert not masked[batch["attention_mask"] == 0].any()
    assert 0.1 < found.count / int(batch["attention_mask"].sum()) < 0.2
    torch.testing.assert_close(seen[0][~masked], batch["input_ids"][~masked])


def test_vectors_of_two_widths_are_compared_by_the_ranks_of_their_cosines():
    model = a_model("bert", "BertModel")
    narrow = resize(model, hidden_size=16, num_attention_heads=2, method="weight_selection")
    with given(model) as examples, torch.no_grad():
        found = agreement(model, narrow, examples)
        (batch,) = examples.batches()
        cosines = []
        for one in (model, narrow):
            states, mask = one(**batch).last_hidden_state.double(), batch["attention_mask"][..., None]
            vectors = (states * mask).sum(1) / mask.sum(1)
            cosines.append(torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=2))
    places = torch.triu(torch.ones(20, 20), diagonal=1).bool()
    assert found.kind == "rank correlation of cosines"
    assert found.value == pytest.approx(spearmanr(*(c[places].numpy() for c in cosines)).statistic, abs=1e-6)


def test_a_sentence_encoder_is_compared_by_ranks_of_the_vectors_that_it_makes():
    model = a_model("bert", "BertModel")
    other = resize(model, num_hidden_layers=1, method="weight_selection")
    with given(model) as examples:
        by_pooling = {
            pooling: agreement(model, other, examples, pooling=pooling) for pooling in ("mean", "cls", "max")
        }
        assert agreement(model, model, examples, pooling="mean").value == pytest.approx(1.0)
    assert {one.kind for one in by_pooling.values()} == {"rank correlation of cosines"}
    assert len({round(one.value, 6) for one in by_pooling.values()}) == 3


def test_a_new_head_is_left_out():
    model = a_model("bert", "BertForSequenceClassification")
    other = resize(model, num_labels=7)
    with given(model) as examples:
        found = agreement(model, other, examples)
    assert (found.kind, found.value) == ("cosine of embeddings", pytest.approx(1.0))


def test_one_number_is_compared_by_its_ranks():
    model = resize(a_model("bert", "BertForSequenceClassification"), num_labels=1)
    other = resize(model, num_hidden_layers=2, method="weight_selection")
    with given(model) as examples, torch.no_grad():
        found = agreement(model, other, examples)
        scores = [torch.cat([m.eval()(**b).logits[:, 0] for b in examples.batches()]) for m in (model, other)]
    assert found.kind == "rank correlation of predictions"
    assert found.value == pytest.approx(spearmanr(*(s.numpy() for s in scores)).statistic, abs=1e-6)


def test_models_that_read_other_inputs_cannot_be_compared():
    model = a_model("bert", "BertForMaskedLM")
    with given(model) as examples:
        assert agreement(model, resize(model, vocab_size=50), examples) is None


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_state_of_the_models_says_nothing(precision):
    model = a_model("vit", "ViTForImageClassification")
    model.config.hidden_dropout_prob = 0.5
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    with given(model) as examples, torch.autocast("cpu", torch.bfloat16):
        assert agreement(model, model, examples).value == 1.0
        half = agreement(
            model, tiny_model("vit", "ViTForImageClassification", dtype=torch.float32).to(precision), examples
        )
    assert model.training
    assert half.value > 0.8


def test_what_is_not_finite_agrees_with_nothing():
    model, broken = (a_model("bert", "BertForSequenceClassification") for _ in range(2))
    with torch.no_grad():
        broken.classifier.bias.fill_(torch.nan)
    with given(model) as examples:
        assert agreement(broken, broken, examples).value == 0.0
        assert agreement(model, broken, examples).value == 0.0


@pytest.mark.parametrize("count", [5, 8 * FEWEST - 1, 8 * FEWEST, 300, 8 * MOST + 100])
def test_each_example_is_fitted_on_or_held_back(count):
    model = a_model("bert", "BertModel")
    rows = [{"input_ids": [5, 6, *divmod(i, 50)]} for i in range(count)]
    with Examples(rows, model, calibration_size=1000) as examples:
        fitting, held = held_back(examples)
        kept = [tuple(row) for b in fitting.batches() for row in b["input_ids"].tolist()]
        others = [] if held is None else [tuple(row) for b in held.batches() for row in b["input_ids"].tolist()]
        assert sorted([*kept, *others]) == sorted(tuple(row["input_ids"]) for row in rows)
        assert len(others) == (0 if count < 8 * FEWEST else min(MOST, count // 8))
        if held is None:
            return
        places = [50 * row[2] + row[3] for row in others]
        assert min(places) < 32
        assert max(places) > count * 3 / 4  # from all over
        again = [b["input_ids"].tolist() for b in held_back(examples)[1].batches()]
        assert again == [b["input_ids"].tolist() for b in held.batches()]
        part = fitting.part([1, 0])
        first, second = fitting.batches([0, 1])
        assert torch.equal(next(part.batches())["input_ids"], second["input_ids"])
        assert torch.equal(next(part.part([1]).batches())["input_ids"], first["input_ids"])


def test_a_model_can_be_fitted_on_what_is_left():
    model = a_model("bert", "BertForSequenceClassification")
    with Examples(examples_for(model, 80), model) as examples:
        fitting, held = held_back(examples)
        assert fitting.num_batches == held.num_batches == examples.num_batches
        assert agreement(model, model, held).count == 10


def test_shares_of_ranks_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(0, 9, (2, 200), generator=generator).double()
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(one, torch.ones(200)) == 0.0
    assert rank_correlation(one, other / 0) == 0.0
    with pytest.raises(CalibrationError, match="at least three examples"):
        rank_correlation(one[:1], other[:1])


def test_pooling_leaves_padding_out():
    states = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    shown = torch.tensor([[True, True, False, False], [False, True, True, True]])
    for pooling, wanted in [
        ("mean", [states[0, :2].mean(0), states[1, 1:].mean(0)]),
        ("max", [states[0, :2].amax(0), states[1, 1:].amax(0)]),
        ("cls", [states[0, 0], states[1, 1]]),
    ]:
        torch.testing.assert_close(pooled(states, shown, pooling).float(), torch.stack(wanted))


@pytest.mark.parametrize("kind", ["same top class", "same top token", "cosine of embeddings", "of another version"])
def test_an_agreement_is_a_plain_line(kind):
    line = str(Agreement(kind, 0.9375, 1064))
    assert "1,064" in line
    assert "93.8 %" in line or "0.938" in line
