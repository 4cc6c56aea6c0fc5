"""Whatever cannot be done is refused at once, with an error that says what was given, what is allowed and what would work.

Requests go to a checkpoint without weights: had anything been loaded, the error would be that of the missing weights.
"""

from __future__ import annotations

import pytest
import transformers

import hf_learngene
from hf_learngene import AutoModelForImageClassification, plan, resize, verify
from hf_learngene.errors import (
    CheckpointError,
    DirectionError,
    InvalidSizeError,
    LearngeneError,
    LossyGrowthError,
    UnknownOptionError,
    UnsupportedFamilyError,
)
from hf_learngene.methods import Lemon
from testing.families import inputs_for, model_class, plan_of, tiny_model


LOAD = AutoModelForImageClassification.from_pretrained_resized


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
        match=r"No size of `vit` .* has about [\d,]+ parameters; the nearest has [\d,]+ parameters and the smallest",
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
    with pytest.raises(DirectionError, match=r"cannot grow \(mlp_ratio 2 → 3\)"):
        plan_of("dinov2", "Dinov2Model", mlp_ratio=3, method="weight_selection")


def test_a_lossless_growth_cannot_shrink(config_only):
    message = r"method='lemon' copies .* it only grows \(hidden_size 24 → 16.*'weight_selection'.*method='auto'"
    with pytest.raises(DirectionError, match=message):
        LOAD(config_only, hidden_size=16, method="lemon")
    with pytest.raises(DirectionError, match=r"only grows \(mlp_ratio 2 → 1\)"):
        plan_of("dinov2", "Dinov2Model", mlp_ratio=1, method="lemon")


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
        ("", r"Method '' does not exist; there are auto, bert2bert, calibrated, front, .*weight_selection"),
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
        ({"method": "lemon", "symmetry": "both"}, r"symmetry is one of proj, equal, comp; it was 'both'"),
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
        ("mobilevit", "MobileViTForImageClassification", "convolutional or hierarchical"),
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
    with pytest.raises(UnknownOptionError, match="Name the section with each size"):
        plan_of("clip", "CLIPModel", hidden_size=16)


def test_a_table_of_distances_keeps_its_length():
    with pytest.raises(InvalidSizeError, match=r"table of distances.*Keep max_position_embeddings at 40"):
        plan_of("deberta", "DebertaModel", max_position_embeddings=96)
    with pytest.raises(InvalidSizeError, match="No tensor of `modernbert` depends on max_position_embeddings"):
        plan_of("modernbert", "ModernBertModel", max_position_embeddings=96)


def test_normalised_heads_keep_their_size():
    with pytest.raises(InvalidSizeError, match="Keep head_dim at 8"):
        plan_of("yoso", "YosoModel", method="lemon", hidden_size=48, num_attention_heads=3)
