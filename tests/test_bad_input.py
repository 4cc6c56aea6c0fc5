"""Whatever cannot be done is refused at once, with an error that says what was given, what is allowed and what would work.

Requests go to a checkpoint without weights: had anything been loaded, the error would be that of the missing weights.
"""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
import transformers
from families import inputs_for, model_class, tiny_config, tiny_model
from torch import nn

import hf_learngene
from hf_learngene import AutoModelForImageClassification, ResizableMixin, plan, resize, verify
from hf_learngene.errors import (
    CheckpointError,
    DirectionError,
    InvalidSizeError,
    LearngeneError,
    LossyGrowthError,
    ProvenanceError,
    UnknownOptionError,
    UnsupportedFamilyError,
    UnsupportedSourceError,
)
from hf_learngene.methods import Lemon


LOAD = AutoModelForImageClassification.from_pretrained_resized


def plan_of(kind, class_name, extra=None, **request):
    """A plan for a family's tiny config: no weight exists, so none can be touched."""
    cls = model_class(class_name)
    return plan(tiny_config(kind, cls.main_input_name, **(extra or {})), model_class=cls, **request)


def edit_config(folder, **values):
    """Changes fields of a saved config by hand."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_every_error_is_a_value_error():
    errors = [e for e in vars(hf_learngene.errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(errors) >= 9
    assert all(issubclass(e, LearngeneError) and issubclass(e, ValueError) for e in errors)


def test_a_checkpoint_without_weights_is_only_an_error_once_the_request_is_sound(config_only):
    assert plan(config_only, hidden_size=16).target_config.hidden_size == 16
    with pytest.raises(CheckpointError, match="cannot be read: .*model.safetensors"):
        LOAD(config_only, hidden_size=16)


# ---- sizes


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"hiden_size": 16},
            r"`vit` has no size field 'hiden_size'; it has .*hidden_size.* Did you mean 'hidden_size'\?",
        ),
        ({"encoder_depth": 3}, r"`vit` has no size field 'encoder_depth'; it has .*num_hidden_layers"),
        ({"vocab_size": 9}, r"`vit` has no size field 'vocab_size'; it has .*patch_size"),
        ({"hidden_size": 16, "d_model": 16}, r"'hidden_size' and 'd_model' are the same size; give one of them"),
        ({"hidden_size": 0}, r"hidden_size is at least 1; it was 0"),
        ({"num_hidden_layers": -2}, r"num_hidden_layers is at least 1; it was -2"),
        ({"hidden_size": True}, r"hidden_size is a whole number; it was True"),
        ({"hidden_size": 16.0}, r"hidden_size is a whole number; it was 16.0. Did you mean 16\?"),
        ({"hidden_size": 16.5}, r"hidden_size is a whole number; it was 16.5.$"),
        ({"hidden_size": "16"}, r"hidden_size is a whole number; it was '16'"),
        ({"hidden_size": None}, r"hidden_size is a whole number; it was None"),
        ({"image_size": (12, 12, 3)}, r"image_size is a whole number; it was \(12, 12, 3\)"),
        ({"image_size": 14}, r"image_size=14 is no multiple of patch_size=4; the nearest sizes are 12 and 16"),
        ({"image_size": (12, 18)}, r"image_size=18 is no multiple of patch_size=4; the nearest sizes are 16 and 20"),
        ({"image_size": 3}, r"image_size=3 is smaller than one patch of 4; the smallest is 4"),
        ({"patch_size": 16}, r"image_size=12 is smaller than one patch of 16; the smallest is 16"),
        (
            {"hidden_size": 16, "num_attention_heads": 3},
            r"hidden_size=16 is not divisible by num_attention_heads=3. The nearest numbers of heads are 2 and 4; "
            r"the nearest widths are 15 and 18; or give num_attention_heads and head_dim",
        ),
        (
            {"hidden_size": 20},
            r"hidden_size=20 cannot keep the source's head size of 8. The nearest widths are 16 and 24; "
            r"or give num_attention_heads too",
        ),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_sizes_that_do_not_exist(config_only, request_, message):
    error = UnknownOptionError if message.startswith((r"`vit` has no", "'hidden_size' and")) else InvalidSizeError
    with pytest.raises(error, match=message):
        LOAD(config_only, **request_)


@pytest.mark.parametrize("hidden", [30, 33, 39])
def test_the_sizes_an_error_names_do_work(hidden):
    with pytest.raises(InvalidSizeError, match="The nearest widths are (32|24) and (40|32)"):
        plan_of("vit", "ViTModel", hidden_size=hidden)
    for width in (hidden // 8 * 8, hidden // 8 * 8 + 8):
        assert plan_of("vit", "ViTModel", hidden_size=width).target_config.hidden_size == width


def test_a_family_without_its_own_head_size_needs_heads_that_fill_the_width():
    with pytest.raises(
        InvalidSizeError, match="hidden_size=24 is not divisible by num_attention_heads=99.* heads are 24;"
    ):
        plan_of("bert", "BertModel", num_attention_heads=99)
    with pytest.raises(UnknownOptionError, match="`bert` has no size field 'head_dim'"):
        plan_of("bert", "BertModel", head_dim=4)


def test_an_ffn_that_is_a_ratio_of_the_width():
    message = (
        "`dinov2` writes its ffn as mlp_ratio × hidden_size: intermediate_size=30 is no multiple of 24. .* 24 and 48"
    )
    with pytest.raises(InvalidSizeError, match=message):
        plan_of("dinov2", "Dinov2Model", intermediate_size=30)


def test_shared_key_and_value_heads_keep_their_proportion():
    extra = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    with pytest.raises(InvalidSizeError, match="3 heads cannot share .* give num_key_value_heads, a divisor of 3"):
        plan_of("eurobert", "EuroBertModel", extra, num_attention_heads=3)


@pytest.mark.parametrize("params", ["20X", "many", "-5M", 0, -1, True, [1], float("inf"), float("nan")])
def test_budgets_that_are_no_number(config_only, params):
    with pytest.raises(InvalidSizeError, match=r"params is a number such as '20M', 20_000_000 or 0.25 .*; it was"):
        LOAD(config_only, params=params)


@pytest.mark.parametrize("params", [10, "5B"])
def test_budgets_out_of_reach(config_only, params):
    with pytest.raises(
        InvalidSizeError,
        match=r"No size of `vit` .* has about [\d,]+ parameters; the nearest has [\d,]+ and the smallest",
    ):
        LOAD(config_only, params=params)


@pytest.mark.parametrize("seed", ["0", 1.0, True, None, 2**64])
def test_seeds_that_are_no_seed(config_only, seed):
    with pytest.raises(InvalidSizeError, match="seed is a whole number of at most 64 bits; it was"):
        LOAD(config_only, hidden_size=16, seed=seed)


# ---- methods and their directions


def test_a_selection_cannot_grow(config_only):
    message = r"weight_selection .* cannot grow \(hidden_size 24 → 48.*method='lemon' grows .*method='auto'"
    with pytest.raises(DirectionError, match=message):
        LOAD(config_only, hidden_size=48, method="weight_selection")
    with pytest.raises(DirectionError, match=r"cannot grow \(num_hidden_layers 3 → 5\)"):
        LOAD(config_only, num_hidden_layers=5, method="weight_selection")


def test_a_lossless_growth_cannot_shrink(config_only):
    message = (
        r"lemon keeps the function, so it only grows \(hidden_size 24 → 16.*method='weight_selection'.*method='auto'"
    )
    with pytest.raises(DirectionError, match=message):
        LOAD(config_only, hidden_size=16, method="lemon")


def test_whole_heads_cannot_become_others():
    request = {"hidden_size": 16, "num_attention_heads": 4, "method": "weight_selection"}
    with pytest.raises(DirectionError, match=r"cannot grow \(num_attention_heads 3 → 4\)"):
        plan_of("vit", "ViTModel", head_selection="headwise", **request)
    assert plan_of("vit", "ViTModel", **request).target_config.num_attention_heads == 4  # flat: 24 entries to 16


@pytest.mark.parametrize(
    ("kind", "class_name"),
    [
        ("bert", "BertForMaskedLM"),
        ("clip_vision_model", "CLIPVisionModel"),  # pre-norm, but the embedding is normalised
        ("roberta-prelayernorm", "RobertaPreLayerNormModel"),
        ("modernbert", "ModernBertModel"),
    ],
)
def test_widths_that_only_whole_multiples_reach(kind, class_name):
    cls = model_class(class_name)
    message = (
        rf"hidden_size 24 → 32 cannot keep the function of `{kind}` as {class_name}: `.*` normalises .* only whole "
        r"multiples of 24 are exact there. The nearest are 24 and 48. method='lemon' with allow_lossy=True grows to 32"
    )
    for method in ("auto", "lemon"):
        with pytest.raises(LossyGrowthError, match=message):
            plan_of(kind, class_name, hidden_size=32, method=method)
    model = tiny_model(kind, class_name)
    exact = resize(model, hidden_size=48, method="lemon")
    assert verify(model, exact, inputs_for(model)).function_preserving
    lossy = resize(model, hidden_size=32, method="lemon", allow_lossy=True)
    assert isinstance(lossy, cls)
    fresh = resize(model, hidden_size=32, method="random")
    loss = verify(model, lossy, inputs_for(model)).max_abs_logit_difference
    assert 1e-6 < loss < 0.5 * verify(model, fresh, inputs_for(model)).max_abs_logit_difference


def test_layers_that_share_their_weights_cannot_be_added():
    with pytest.raises(
        DirectionError,
        match="layers of `albert` share one set of weights, so a deeper model computes another function.*method='front'",
    ):
        plan_of("albert", "AlbertForMaskedLM", num_hidden_layers=5)
    with pytest.raises(DirectionError, match="layers of `albert` share one set of weights: there is nothing to pick"):
        plan_of("albert", "AlbertForMaskedLM", method="layers", layer_map=[0, 2])


@pytest.mark.parametrize(("kind", "class_name"), [("modernbert", "ModernBertModel"), ("roformer", "RoFormerModel")])
def test_heads_that_rotate_cannot_become_larger(kind, class_name):
    message = (
        rf"head_dim 8 → 16: `{kind}` rotates .* Keep head_dim at 8 and add heads instead \(num_attention_heads=6\)"
    )
    with pytest.raises(InvalidSizeError, match=message):
        plan_of(kind, class_name, hidden_size=48, num_attention_heads=3)
    assert plan_of(kind, class_name, hidden_size=48, num_attention_heads=6).method == "lemon"


@pytest.mark.parametrize(
    ("layer_map", "error", "message"),
    [
        ([0, 3], InvalidSizeError, r"layer_map names layers \[3\]; the source has layers 0 to 2"),
        ([-4], InvalidSizeError, r"layer_map names layers \[-4\]; the source has layers 0 to 2"),
        ([0.0], InvalidSizeError, r"layer_map holds the indices of source layers; it was \[0.0\]"),
        ([True], InvalidSizeError, r"layer_map holds the indices of source layers; it was \[True\]"),
        (
            [],
            UnknownOptionError,
            r"method='layers' needs layer_map, a list of source layers such as \[0, 2, 4\]; it was \[\]",
        ),
        ("012", UnknownOptionError, r"needs layer_map, a list .* it was '012'"),
        (2, UnknownOptionError, r"needs layer_map, a list .* it was 2"),
        (None, UnknownOptionError, r"needs layer_map, a list .* it was None"),
    ],
)
def test_layer_maps_that_do_not_fit(config_only, layer_map, error, message):
    with pytest.raises(error, match=message):
        LOAD(config_only, method="layers", layer_map=layer_map)


def test_a_layer_map_says_the_depth_and_keeps_the_width(config_only):
    with pytest.raises(
        InvalidSizeError,
        match="layer_map names 2 layers, but num_hidden_layers=3 was asked for. Leave num_hidden_layers out",
    ):
        LOAD(config_only, method="layers", layer_map=[0, 1], num_hidden_layers=3)
    with pytest.raises(
        DirectionError, match=r"widths stay \(hidden_size 24 → 16.*method='weight_selection' shrinks widths"
    ):
        LOAD(config_only, method="layers", layer_map=[0, 1], hidden_size=16)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "weigth_selection",
            r"Method 'weigth_selection' does not exist; there are auto, .*Did you mean 'weight_selection'\?",
        ),
        ("", r"Method '' does not exist; there are auto, front, layers, lemon, random, weight_selection"),
        (None, r"Method None does not exist; there are auto"),
        (3, r"Method 3 does not exist; there are auto"),
        (["lemon"], r"Method \['lemon'\] does not exist; there are auto"),
        (Lemon, r"Method <class .*Lemon'> does not exist; .* Did you mean Lemon\(\)\?"),
    ],
)
def test_methods_that_do_not_exist(config_only, method, message):
    with pytest.raises(UnknownOptionError, match=message):
        LOAD(config_only, hidden_size=16, method=method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symmetry": "equal"}, r"'symmetry' is an option of method 'lemon', not of 'auto'. Give method='lemon' with it"),
        ({"method": "lemon", "element_selection": "random"}, r"is an option of method 'weight_selection', not of 'lemon'"),
        ({"method": Lemon(), "layer_map": [0]}, r"'layer_map' is an option of method 'layers', not of 'lemon'"),
        ({"method": Lemon(), "symmetry": "equal"}, r"\['symmetry'\] were given beside a Lemon object; put them into the object"),
        ({"method": "lemon", "symmetry": "both"}, r"symmetry is one of proj, equal; it was 'both'"),
        ({"method": "lemon", "depth": 3}, r"depth is one of allzero, cancelzero; it was 3"),
        ({"method": "lemon", "allow_lossy": "yes"}, r"allow_lossy is one of True, False; it was 'yes'"),
        ({"method": "weight_selection", "element_selection": 3}, r"is one of uniform, consecutive, random, .*; it was 3"),
        ({"method": "weight_selection", "layer_selection": "last"}, r"layer_selection is one of first, uniform; it was 'last'"),
        ({"method": "weight_selection", "head_selection": None}, r"head_selection is one of flat, headwise; it was None"),
        ({"method": "random", "temperature": 1}, r"`vit` has no size field 'temperature'"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(config_only, options, message):
    with pytest.raises(UnknownOptionError, match=message):
        LOAD(config_only, hidden_size=16, **options)


# ---- families


@pytest.mark.parametrize(
    ("kind", "class_name", "reason"),
    [
        ("resnet", "ResNetForImageClassification", "convolutional or hierarchical"),
        ("convnext", "ConvNextForImageClassification", "convolutional or hierarchical"),
        ("segformer", "SegformerForImageClassification", "convolutional or hierarchical"),
        ("pvt", "PvtForImageClassification", "convolutional or hierarchical"),
        ("mobilevit", "MobileViTForImageClassification", "convolutional or hierarchical"),
        ("swin", "SwinForImageClassification", "hierarchical family: its stages have sizes of their own"),
        ("bart", "BartForSequenceClassification", "encoder-decoder"),
        ("t5", "T5ForConditionalGeneration", "encoder-decoder"),
        ("gpt2", "GPT2ForSequenceClassification", "decoder-only"),
        ("llama", "LlamaForSequenceClassification", "decoder-only"),
        ("bert", "BertLMHeadModel", "decoder-only"),
    ],
)
def test_families_that_are_no_plain_encoder(kind, class_name, reason):
    config = transformers.CONFIG_MAPPING[kind]()
    if class_name == "BertLMHeadModel":
        config.is_decoder = True
    with pytest.raises(UnsupportedFamilyError, match=f"`{kind}`.* {reason}.*resizes encoders of one width throughout"):
        plan(config, model_class=model_class(class_name), hidden_size=32)


def test_two_towers_at_once_are_refused():
    with pytest.raises(UnsupportedFamilyError, match="CLIPModel"):
        plan_of("clip", "CLIPModel", hidden_size=16)


# ---- sources


@pytest.fixture
def vit():
    return tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)


def test_a_quantized_checkpoint_is_refused(config_only):
    edit_config(config_only, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    message = "is quantized; packed weights cannot be resized. Name the checkpoint it was made from"
    for verb in (LOAD, plan):
        with pytest.raises(UnsupportedSourceError, match=message):
            verb(config_only, hidden_size=16)


@pytest.mark.parametrize(("flag", "value"), [("is_quantized", True), ("quantization_method", "bitsandbytes")])
def test_a_quantized_model_is_refused(vit, flag, value):
    setattr(vit, flag, value)
    with pytest.raises(
        UnsupportedSourceError, match="model is quantized; .* Load it without quantization_config, resize"
    ):
        resize(vit, hidden_size=16)


def test_a_model_on_several_devices_is_refused(vit):
    vit.vit.layers[1].to("meta")  # as accelerate leaves what it has offloaded
    with pytest.raises(
        UnsupportedSourceError, match=r"spread over cpu, meta. Load it on one device \(device_map=None\)"
    ):
        resize(vit, hidden_size=16)


def test_a_model_dispatched_by_a_device_map_is_refused(vit):
    vit.hf_device_map = {"vit": 0, "classifier": "cpu"}
    with pytest.raises(UnsupportedSourceError, match=r"spread over .*Load it on one device \(device_map=None\)"):
        resize(vit, hidden_size=16)
    vit.hf_device_map = {"": "cpu"}
    assert resize(vit, hidden_size=16).config.hidden_size == 16


def test_a_model_on_meta_can_be_planned_but_not_resized(vit):
    vit.to("meta")
    assert plan(vit, hidden_size=16).target_config.hidden_size == 16
    with pytest.raises(UnsupportedSourceError, match="on meta and has no weights. `plan` needs none"):
        resize(vit, hidden_size=16)


def test_a_model_with_adapters_is_refused_until_they_are_merged(vit):
    config = peft.LoraConfig(target_modules=["q_proj"], r=2)
    wrapped = peft.get_peft_model(copy.deepcopy(vit), config)
    with pytest.raises(UnsupportedSourceError, match=r"this is a PeftModel. Call merge_and_unload\(\) on it first"):
        resize(wrapped, hidden_size=16)
    with pytest.raises(UnsupportedSourceError, match="q_proj.weight` is absent.*Merge adapters"):
        resize(wrapped.get_base_model(), hidden_size=16)
    assert resize(wrapped.merge_and_unload(), hidden_size=16).config.hidden_size == 16
    vit.add_adapter(config)
    with pytest.raises(UnsupportedSourceError, match="carries adapters. Merge or delete them"):
        resize(vit, hidden_size=16)


def test_a_model_that_is_not_what_its_config_says_is_refused(vit):
    changed = copy.deepcopy(vit)
    changed.classifier = nn.Linear(24, 9)
    with pytest.raises(
        UnsupportedSourceError, match=r"`classifier.weight` has shape \(9, 24\), by the config it is \(5, 24\)"
    ):
        resize(changed, hidden_size=16)
    del vit.vit.layers[2]
    with pytest.raises(UnsupportedSourceError, match=r"`vit.layers.2.* is absent"):
        resize(vit, hidden_size=16)


def test_weights_untied_by_hand_are_refused():
    bert = tiny_model("bert", "BertForMaskedLM")
    decoder = bert.cls.predictions.decoder
    decoder.weight = nn.Parameter(decoder.weight.detach() + 1)
    with pytest.raises(
        UnsupportedSourceError, match="decoder.weight` and .*word_embeddings.weight` are tied there and differ"
    ):
        resize(bert, hidden_size=16)
    bert.config.tie_word_embeddings = False
    assert resize(bert, hidden_size=16).config.hidden_size == 16


@pytest.mark.parametrize("source", [nn.Linear(2, 2), None, 3])
def test_a_source_of_another_kind(source):
    name = type(source).__name__
    with pytest.raises(UnsupportedSourceError, match=f"resize takes a transformers model; this is a {name}"):
        resize(source, hidden_size=16)
    with pytest.raises(
        UnsupportedSourceError, match=f"a Hub id, a folder, a config or a transformers model; this is a {name}"
    ):
        plan(source, hidden_size=16)
    with pytest.raises(
        UnsupportedSourceError, match=rf"a Hub id or a folder; this is a {name}. `resize\(model, ...\)`"
    ):
        LOAD(source, hidden_size=16)


# ---- checkpoints


def test_truncated_weights(vit_folder):
    path = vit_folder / "model.safetensors"
    whole = path.read_bytes()
    for size in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="vit` are truncated or no safetensors file: .*Fetch them again"):
            LOAD(vit_folder, hidden_size=16)


def test_a_truncated_pickle(config_only):
    (config_only / "pytorch_model.bin").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match="vit` "):
        LOAD(config_only, hidden_size=16)


@pytest.mark.parametrize("text", ['{"model_type": "vit", "hidden', "[]", "{}", '{"model_type": "no_such_family"}'])
def test_an_unusable_config(vit_folder, text):
    (vit_folder / "config.json").write_text(text)
    for verb in (LOAD, plan):
        with pytest.raises(CheckpointError, match="folder `.*vit` holds no usable config.json: "):
            verb(vit_folder, hidden_size=16)


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match="holds no usable config.json"):
        LOAD(tmp_path, hidden_size=16)


def test_weights_of_another_architecture(vit_folder, bert_folder):
    (bert_folder / "model.safetensors").replace(vit_folder / "model.safetensors")
    message = (
        r"does not fill ViTForImageClassification: 48 encoder tensors are absent, the first `vit.layers.0.*It holds "
        r"'bert\.embeddings.* and other names that do not load. Is it a checkpoint of another architecture\?"
    )
    with pytest.raises(CheckpointError, match=message):
        LOAD(vit_folder, hidden_size=16)


def test_a_checkpoint_that_lacks_one_encoder_tensor(vit_folder):
    from safetensors.torch import load_file, save_file

    state = load_file(vit_folder / "model.safetensors")
    del state["vit.encoder.layer.1.output.dense.bias"]
    save_file(state, vit_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 encoder tensors are absent, the first `vit.layers.1.mlp.fc2.bias`"):
        LOAD(vit_folder, hidden_size=16)


def test_weights_that_do_not_fit_their_config(vit_folder):
    edit_config(vit_folder, intermediate_size=44)
    with pytest.raises(CheckpointError, match="weights of `.*vit` do not fit its own config"):
        LOAD(vit_folder, hidden_size=16)


@pytest.mark.parametrize("verb", [LOAD, plan])
def test_an_id_that_is_not_cached_while_offline(verb, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = (
        "No checkpoint `nobody/no-such-model` was found: .*HF_HUB_OFFLINE is set, so only cached checkpoints and local"
    )
    with pytest.raises(CheckpointError, match=message) as caught:
        verb("nobody/no-such-model", hidden_size=16, cache_dir=tmp_path)
    assert isinstance(caught.value, OSError)  # as transformers raises


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"format": 99, "package_version": "9.0"}, "has format 99, written by hf_learngene 9.0; .* up to format 1. Upgrade"),
        ("mine", "config.learngene is no record of this package: 'mine'. Remove it from config.json"),
        ({"format": "1"}, "config.learngene is no record of this package"),
    ],
)  # fmt: skip
def test_a_record_that_is_not_understood(config_only, record, message):
    edit_config(config_only, learngene=record)
    for verb in (LOAD, plan):
        with pytest.raises(ProvenanceError, match=message):
            verb(config_only, hidden_size=16)
    config = transformers.ViTConfig.from_pretrained(config_only)
    with pytest.raises(ProvenanceError, match=message):
        plan(config, hidden_size=16)


# ---- keywords of from_pretrained


@pytest.mark.parametrize(
    ("keyword", "value", "why"),
    [
        ("trust_remote_code", True, "code from a repository is never run here"),
        ("quantization_config", {"load_in_8bit": True}, "resize first, then quantize the result"),
        ("quantization_config", {}, "resize first, then quantize the result"),
        ("ignore_mismatched_sizes", True, "name the size you want instead"),
        ("config", {"hidden_size": 16}, "the sizes are given by name"),
        ("state_dict", {}, "give the model itself to `resize`"),
        ("output_loading_info", True, "`plan` tells what becomes of each tensor"),
    ],
)
def test_keywords_that_contradict_a_resize(config_only, keyword, value, why):
    with pytest.raises(UnknownOptionError, match=f"'{keyword}' cannot be used when resizing: .*{why}"):
        LOAD(config_only, hidden_size=16, **{keyword: value})
    with pytest.raises(CheckpointError, match="cannot be read"):  # switched off, it is no contradiction
        LOAD(config_only, hidden_size=16, **{keyword: None})


def test_a_keyword_that_transformers_refuses(vit_folder):
    with pytest.raises(CheckpointError, match="cannot be loaded as asked: .*dtype"):
        LOAD(vit_folder, hidden_size=16, dtype="float77")


def test_labels_that_contradict_each_other(config_only):
    two = {0: "cat", 1: "dog"}
    with pytest.raises(UnknownOptionError, match="num_labels=3, but id2label names 2 labels. Leave num_labels out"):
        LOAD(config_only, num_labels=3, id2label=two)
    with pytest.raises(UnknownOptionError, match="num_labels=3, but id2label names 2 labels"):
        LOAD(config_only, num_labels=3, label2id={"cat": 0, "dog": 1})
    for names in (["cat", "dog"], {1: "cat", 2: "dog"}, {"cat": 0}, 2):
        with pytest.raises(
            UnknownOptionError, match=r"id2label names the labels 0, 1, ...: \{0: 'cat', 1: 'dog'\}; it was"
        ):
            LOAD(config_only, id2label=names)


# ---- classes


def test_a_class_for_another_kind_of_checkpoint(vit_folder, bert_folder):
    class MyBert(ResizableMixin, transformers.BertModel): ...

    with pytest.raises(CheckpointError, match="vit` is a `vit` checkpoint, and MyBert loads `bert` ones"):
        MyBert.from_pretrained_resized(vit_folder, hidden_size=16)
    with pytest.raises(
        UnsupportedFamilyError, match="AutoModelForImageClassification knows no class for `bert` checkpoints"
    ):
        LOAD(bert_folder, hidden_size=16)
    with pytest.raises(CheckpointError, match="vit` is a `vit` checkpoint, and BertModel loads `bert` ones"):
        plan(vit_folder, model_class=transformers.BertModel, hidden_size=16)
    with pytest.raises(
        UnsupportedSourceError, match=r"BertModel is built from a BertConfig; this is a ViTConfig \(`vit`\)"
    ):
        plan(tiny_config("vit"), model_class=transformers.BertModel, hidden_size=16)


@pytest.mark.parametrize("base", [object, transformers.PreTrainedModel])
def test_the_mixin_without_a_model_class(base, tmp_path):
    mine = type("Mine", (ResizableMixin, base) if base is not object else (ResizableMixin,), {})
    with pytest.raises(
        UnsupportedSourceError, match="Mine does not descend from a model class .*`class MyViT.ResizableMixin, ViT"
    ):
        mine.from_pretrained_resized(tmp_path, hidden_size=16)
