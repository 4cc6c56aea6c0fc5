"""Adapters that do not follow their base: each is refused with what was given and what works."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from hf_learngene import resize, resize_adapter
from hf_learngene.errors import AdapterError, CheckpointError, ProvenanceError, UnsupportedSourceError
from testing.adapters import adapted, assert_same_logits, lora
from testing.families import tiny_model


SMALL = {"method": "weight_selection", "hidden_size": 16, "num_attention_heads": 2}
GROWN = {"method": "lemon", "num_hidden_layers": 4}


@pytest.fixture(scope="module")
def vit():
    return tiny_model("vit", "ViTForImageClassification")


@pytest.fixture(scope="module")
def grown(vit):
    return resize(vit, **GROWN)


def test_several_adapters(vit):
    model = adapted(vit, lora("q_proj"))
    model.add_adapter("second", lora("v_proj"))
    with pytest.raises(AdapterError, match=r"carries 2 adapters \(default, second\).*carry it alone"):
        resize(model, **GROWN)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoHaConfig(target_modules=["query"]),
        peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2),
        peft.VeraConfig(target_modules=["query"]),
    ],
    ids=lambda c: c.peft_type.value,
)
def test_other_kinds_of_adapters(config):
    model = peft.get_peft_model(tiny_model("bert", "BertModel"), config)
    with pytest.raises(AdapterError, match=rf"{config.peft_type.value} adapters do not follow .*LORA .*IA3 do"):
        resize(model, **GROWN)


def test_lora_that_does_more_than_add_a_product(vit):
    with pytest.raises(
        AdapterError, match=r"`vit.embeddings.patch_embeddings.projection` .*DoraConv2dVariant.* does not follow"
    ):
        resize(adapted(vit, lora("projection", use_dora=True)), **GROWN)
    with pytest.raises(AdapterError, match="ParamWrapper"):
        resize(adapted(vit, peft.LoraConfig(target_modules=[], target_parameters=["classifier.weight"])), **GROWN)
    bert = tiny_model("bert", "BertModel")
    with pytest.raises(AdapterError, match="TrainableTokensWrapper, which does not follow"):
        resize(adapted(bert, lora("query", trainable_token_indices=[1, 2])), **GROWN)


def test_an_adapter_that_is_merged(vit):
    model = adapted(vit, lora("q_proj"))
    model.merge_adapter()
    with pytest.raises(AdapterError, match=r"merged into `vit.*q_proj`. Call unmerge_adapter\(\) first"):
        resize(model, **GROWN)
    model.unmerge_adapter()
    assert_same_logits(resize(model, **GROWN), model, vit)


def test_adapters_that_transformers_put_in(vit):
    model = copy.deepcopy(vit)
    model.add_adapter(lora("q_proj"))
    with pytest.raises(UnsupportedSourceError, match="or give a PeftModel, whose adapter follows"):
        resize(model, **GROWN)


def test_a_method_that_fits_matrices_anew(vit):
    with pytest.raises(
        AdapterError, match=r"'calibrated' fits every matrix anew .*merge_and_unload.*weight_selection"
    ):
        resize(adapted(vit, lora("q_proj")), hidden_size=16)


def test_a_method_that_mixes_tensors(vit):
    with pytest.raises(
        AdapterError, match=r"'front' makes .* mixed of .* no adapter of the same rank follows|same rank follows"
    ):
        resize(adapted(vit, lora("q_proj")), method="front", num_hidden_layers=5)
    with pytest.raises(AdapterError, match="'bert2bert' makes .*same rank follows"):
        resize(adapted(vit, lora("q_proj")), method="bert2bert", hidden_size=48)


def test_a_target_that_starts_anew(vit):
    for config in (lora("classifier"), lora("q_proj", modules_to_save=["classifier"])):
        with pytest.raises(
            AdapterError, match=r"changes `classifier.weight`, which .*7 labels instead of 5.*Keep its size"
        ):
            resize(adapted(vit, config), num_labels=7, **GROWN)
    model = adapted(vit, lora("q_proj"))
    assert resize(model, num_labels=7, **GROWN).get_base_model().config.num_labels == 7


def test_an_adapter_whose_layers_are_all_pruned(vit):
    model = adapted(vit, lora("q_proj", layers_to_transform=[2]))
    with pytest.raises(AdapterError, match=r"keeps no layer that the adapter is on.*layer_map"):
        resize(model, method="layers", layer_map=[0, 1])
    kept = resize(model, method="layers", layer_map=[0, 2])
    assert [hasattr(x.attention.q_proj, "lora_A") for x in kept.get_base_model().vit.layers] == [False, True]


def test_a_rank_above_the_new_width(vit):
    model = adapted(vit, lora("q_proj", r=20))
    with pytest.raises(AdapterError, match=r"rank 20 on `vit.*q_proj`, whose weight is \(16, 16\) .*at most 16"):
        resize(model, **SMALL)
    wide = adapted(vit, lora("classifier", r=20))  # five labels: it was above before
    assert resize(wide, **SMALL).peft_config["default"].r == 20


def test_a_layer_scale_that_is_saved_whole():
    model = tiny_model("dinov2", "Dinov2ForImageClassification")
    source = adapted(model, lora("q_proj", modules_to_save=["layer_scale1"]))
    assert_same_logits(resize(source, method="lemon", hidden_size=48), source, model)
    with pytest.raises(AdapterError, match=r"lambda1` of its own, and method='lemon' makes `.*` with it"):
        resize(source, method="lemon", hidden_size=40, num_attention_heads=5)


def test_a_base_that_is_not_what_the_record_makes(vit, grown):
    source = adapted(vit, lora("q_proj"))
    trained = copy.deepcopy(grown)
    with torch.no_grad():
        trained.vit.layers[0].mlp.fc1.weight[0, 0] += 1e-3
    with pytest.raises(
        AdapterError, match=r"`vit.layers.0.mlp.fc1.weight` differs.* or trained since. Resize both in one call"
    ):
        resize_adapter(source, trained)
    other = adapted(tiny_model("vit", "ViTForImageClassification", seed=1), lora("q_proj"))
    with pytest.raises(AdapterError, match="differs. Either it was made of another one"):
        resize_adapter(other, copy.deepcopy(grown))
    with pytest.raises(AdapterError, match="adapter's base is not the source: `.*` differs"):
        resize_adapter(other, copy.deepcopy(grown), vit)
    with pytest.raises(ProvenanceError, match="was not resized by this package"):
        resize_adapter(source, copy.deepcopy(vit))
    with pytest.raises(UnsupportedSourceError, match="this is a PeftModel. Call merge_and_unload"):
        resize_adapter(source, source)
    with pytest.raises(AdapterError, match="source is a BertModel, and the resized base a ViTForImageClassification"):
        resize_adapter(source, copy.deepcopy(grown), tiny_model("bert", "BertModel"))


def test_a_folder_of_another_base(vit, grown, tmp_path):
    adapted(vit, lora("q_proj", "fc1")).save_pretrained(tmp_path / "adapter")
    wider = resize(vit, method="lemon", hidden_size=48)
    base = resize(wider, **GROWN)
    with pytest.raises(AdapterError, match="does not fit ViTForImageClassification: "):
        resize_adapter(tmp_path / "adapter", base, wider)
    deeper = resize(grown, method="lemon", num_hidden_layers=5)
    with pytest.raises(AdapterError, match=r"is not of this base: `.*layers.3.*lora_A.weight` is absent"):
        resize_adapter(tmp_path / "adapter", deeper, grown)
    assert_same_logits(
        resize_adapter(tmp_path / "adapter", copy.deepcopy(grown), vit), adapted(vit, lora("q_proj", "fc1")), vit
    )


def test_a_folder_that_is_no_adapter_or_names_no_base(vit, grown, tmp_path):
    with pytest.raises(AdapterError, match="holds no adapter that peft reads"):
        resize_adapter(tmp_path, copy.deepcopy(grown), vit)
    adapted(vit, lora("q_proj")).save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match="name no base model. Give it"):
        resize_adapter(tmp_path / "adapter", copy.deepcopy(grown))
    with pytest.raises(CheckpointError, match="There is no folder"):
        resize_adapter(tmp_path / "adapter", str(tmp_path / "nowhere"))


def test_an_initialisation_that_changes_the_base(tmp_path):
    """PiSSA takes the largest directions out of the base's weights, and does so again wherever its adapter is loaded."""
    vit = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    grown = resize(vit, **GROWN)
    peft.get_peft_model(copy.deepcopy(vit), lora("q_proj", init_lora_weights="pissa")).save_pretrained(
        tmp_path / "pissa"
    )
    with pytest.raises(
        AdapterError, match=r"q_proj.weight` differs.*path_initial_model_for_weight_conversion.*'pissa'"
    ):
        resize_adapter(tmp_path / "pissa", copy.deepcopy(grown), vit)


def test_a_record_that_does_not_tell_what_was_chosen(vit):
    source = adapted(vit, lora("q_proj"))
    base = resize(vit, num_hidden_layers=2, calibration="synthetic", calibration_size=64)
    with pytest.raises(
        AdapterError, match=r"resized by 'calibrated', whose choices are not in its record.*merge_and_unload"
    ):
        resize_adapter(source, base)
    bert = tiny_model("bert", "BertForMaskedLM")
    trimmed = resize(bert, kept_tokens=list(range(20)))
    with pytest.raises(AdapterError, match="some of its tokens|choices are not in its record"):
        resize_adapter(adapted(bert, lora("query")), trimmed)
    source = adapted(bert, lora("query", "word_embeddings"))
    together = resize(source, kept_tokens=list(range(20)))
    assert together.get_base_model().bert.embeddings.word_embeddings.lora_embedding_A["default"].shape == (2, 20)


def test_a_module_with_buffers_that_is_saved_whole(vit):
    model = copy.deepcopy(vit)
    model.classifier.register_buffer("seen", torch.zeros(1))
    assert isinstance(model.classifier, nn.Linear)
    with pytest.raises(AdapterError, match="`classifier` of modules_to_save has buffers"):
        resize(adapted(model, lora("q_proj", modules_to_save=["classifier"])), **GROWN)
