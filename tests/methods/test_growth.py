"""Growing keeps the function. The strongest test here: what proves an anatomy right is that this holds."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_learngene import resize, verify
from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.sections import sections_of
from hf_learngene.errors import DirectionError, InvalidSizeError, LossyGrowthError
from testing.families import DEPTH_STAYS, WIDTH_STAYS, case_id, exact_deberta, inputs_for, listed, tiny_model
from testing.numerics import EXACT
from testing.untraced_inputs import UNUSUAL, masked


CASES = listed()


@pytest.fixture(autouse=True, scope="module")
def _deberta_in_float64():
    exact_deberta()


@pytest.mark.parametrize("case", UNUSUAL, ids=lambda c: case_id(c[:3]))
def test_growth_is_exact_or_refused_where_a_plain_pass_does_not_reach(case):
    kind, extra, name, change = case
    model = tiny_model(kind, name, extra)
    inputs = inputs_for(model)
    if change is not None:
        inputs = change(model, inputs)
    place = "text_config" if "text_config" in sections_of(model.config, type(model)) else None
    anatomy = anatomy_of(model.config, type(model), place)
    sizes = [
        {"hidden_size": 40},
        {"hidden_size": 48},
        {"num_hidden_layers": 4},
        {"num_hidden_layers": 7},
        {"hidden_size": 48, "num_attention_heads": 3},
    ]
    grown = 0
    for request in sizes:
        try:
            asked = request if place is None else {place: request}
            result = resize(model, method="lemon", seed=3, **asked)
        except (LossyGrowthError, DirectionError, InvalidSizeError):
            continue
        report = verify(model, result, inputs)
        # RMS norms compute in float32 inside transformers
        exact = EXACT if all(n.centred for n in anatomy.norms) else 5e-6
        assert report.relative <= exact, f"{request}: {report}"
        grown += 1
    assert grown >= (1 if anatomy.shared_layers or kind == "tipsv2_text_model" else 2)


def test_masked_images_are_exact_at_any_width_and_what_is_unseen_is_not_guessed():
    model = tiny_model("vit", "ViTForMaskedImageModeling", {"encoder_stride": 4})
    assert verify(model, resize(model, hidden_size=40), masked(model, inputs_for(model))).relative <= EXACT
    model = tiny_model("ultravbert", "UltraVBertForMaskedLM")
    with pytest.raises(LossyGrowthError, match="does not reach .*connector.*24 and 48"):
        resize(model, text_config={"hidden_size": 40})
    model = tiny_model("tipsv2_text_model", "Tipsv2TextModel")
    with pytest.raises(LossyGrowthError, match="makes for its own width"):
        resize(model, hidden_size=48)


def test_losses_are_compared_too():
    model = tiny_model("vit", "ViTForImageClassification")
    inputs = {**inputs_for(model), "labels": torch.tensor([0, 1])}
    report = verify(model, resize(model, hidden_size=40), inputs)
    assert report.function_preserving
    assert report.outputs.keys() == {"loss", "logits"}


@pytest.mark.parametrize("case", CASES[::3], ids=case_id)
def test_growth_in_float32_and_after_saving(case, tmp_path):
    kind, extra, name = case
    model = tiny_model(kind, name, extra, dtype=torch.float32)
    request = {"intermediate_size": 64} if kind in WIDTH_STAYS else {"hidden_size": 48}
    if not anatomy_of(model.config, type(model)).shared_layers and kind not in DEPTH_STAYS:
        request["num_hidden_layers"] = 5
    grown = resize(model, method="lemon", **request)
    inputs = inputs_for(model)
    report = verify(model, grown, inputs)
    assert report.relative <= 5e-5, report
    grown.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert verify(grown, again, inputs).relative <= 1e-6


@pytest.mark.parametrize(
    "case", [c for c in CASES if c[2] in ("ViTForImageClassification", "Dinov2Model", "BertForMaskedLM")], ids=case_id
)
def test_grown_then_selected_back_is_the_source(case):
    """Consecutive selection takes the first copies; columns split in two are found again by growing `equal` and doubling."""
    kind, extra, name = case
    model = tiny_model(kind, name, extra)
    grown = resize(model, method="lemon", symmetry="equal", hidden_size=48)
    back = resize(grown, method="weight_selection", element_selection="consecutive", hidden_size=24)
    for (key, a), b in zip(model.named_parameters(), back.parameters(), strict=True):
        info = anatomy_of(model.config, type(model)).tensors[key]
        halved = sum(d.side == "in" and d.axis in ("hidden", "heads", "ffn") for d in info.dims)
        factor = 0.5**halved
        if key.rpartition(".")[0] in anatomy_of(model.config, type(model)).tied_readers:
            factor = 0.5  # before a tied decoder
        torch.testing.assert_close(b, a * factor, msg=key)


def test_post_norm_width_that_is_no_multiple_loses_little():
    model = tiny_model("bert", "BertForSequenceClassification")
    with torch.no_grad():  # as in trained models: norms near one another
        for name, parameter in model.named_parameters():
            if "LayerNorm.weight" in name:
                parameter.copy_(1 + 0.1 * (parameter - 1))
    with pytest.raises(LossyGrowthError, match="24 and 48"):
        resize(model, method="lemon", hidden_size=32)
    grown = resize(model, method="lemon", hidden_size=32, allow_lossy=True)
    report = verify(model, grown, inputs_for(model))
    assert not report.function_preserving
    assert report.relative < 0.1


@pytest.mark.parametrize(
    ("kind", "name"), [("vit", "ViTForImageClassification"), ("bert", "BertForSequenceClassification")]
)
def test_copies_diverge_in_training(kind, name):
    """Equal splits stay equal for ever; random ones that cancel do not."""
    model = tiny_model(kind, name, dtype=torch.float32)
    inputs = inputs_for(model, batch=4)
    labels = torch.tensor([0, 1, 2, 3])

    def train(symmetry: str) -> float:
        grown = resize(model, method="lemon", symmetry=symmetry, hidden_size=48)
        optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            grown(**inputs, labels=labels).loss.backward()
            optimizer.step()
        weights = [p for n, p in grown.named_parameters() if n.endswith(("fc1.weight", "intermediate.dense.weight"))]
        bias = [p for n, p in grown.named_parameters() if n.endswith(("fc1.bias", "intermediate.dense.bias"))]
        assert len(weights) == 3
        half = len(bias[0]) // 2
        return max(float((b[:half] - b[half:]).detach().abs().max()) for b in bias)

    assert train("equal") < 1e-6
    assert train("proj") > 1e-4


def test_a_seed_gives_the_same_model_and_another_seed_another():
    model = tiny_model("vit", "ViTForImageClassification")
    first, again, other = (resize(model, hidden_size=48, seed=s) for s in (1, 1, 2))
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    differs = [not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
    assert all(same)
    assert any(differs)


def test_epsilon_is_written_to_the_config_and_growth_is_exact_at_a_large_one():
    model = tiny_model("vit", "ViTForImageClassification", {"layer_norm_eps": 1e-2})
    grown = resize(model, method="lemon", hidden_size=40)
    assert grown.config.layer_norm_eps == pytest.approx(1e-2 * 24 / 40)
    assert verify(model, grown, inputs_for(model)).relative <= EXACT
    wrong = copy.deepcopy(grown)
    for module in wrong.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-2
    assert verify(model, wrong, inputs_for(model)).relative > 1e-4


def test_growth_is_exact_where_the_config_has_no_epsilon():
    """SigLIP-like towers read it from the config; a family that does not is scaled instead."""
    import dataclasses

    from hf_learngene.methods import lemon

    model = tiny_model("vit", "ViTForImageClassification", {"layer_norm_eps": 1e-2})
    original = lemon.scales_epsilon
    lemon.scales_epsilon = lambda source: False
    try:
        grown = resize(model, method="lemon", hidden_size=40)
    finally:
        lemon.scales_epsilon = original
    assert grown.config.layer_norm_eps == 1e-2
    assert verify(model, grown, inputs_for(model)).relative <= EXACT
    assert dataclasses.is_dataclass(lemon.Lemon)


def test_longer_texts_keep_the_function_on_short_ones():
    model = tiny_model("roberta", "RobertaForMaskedLM")
    grown = resize(model, method="lemon", max_position_embeddings=64)
    assert grown.config.max_position_embeddings == 64
    assert verify(model, grown, inputs_for(model)).relative <= 1e-12


def test_a_stream_without_means_is_widened_by_zeros():
    """RMS norms subtract no mean. They compute in float32 inside transformers, hence the tolerance."""
    model = tiny_model("eurobert", "EuroBertForMaskedLM")
    assert not any(n.centred for n in anatomy_of(model.config, type(model)).norms)
    assert verify(model, resize(model, method="lemon", hidden_size=40), inputs_for(model)).relative < 1e-5


@pytest.mark.parametrize("method", ["lemon", "hyperclone"])
def test_rows_of_a_table_of_a_familys_own_are_not_guessed(method):
    """WavLM's buckets of distances: with more of them, the same distance falls into another."""
    model = tiny_model("wavlm", "WavLMModel")
    for sizes in ({}, {"hidden_size": 48}):
        with pytest.raises(LossyGrowthError, match="num_buckets 320 → 640: these count rows"):
            resize(model, method=method, num_buckets=640, **sizes)
