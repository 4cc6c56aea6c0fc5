"""LoRA on resized models and on what learngenes make: adapters learn, save, load and merge as on any transformers model."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

from hf_learngene import AutoLearngene, AutoModelForMaskedLM, resize
from hf_learngene.training import CheckpointSafeTrainer
from testing.checkpoints import save_checkpoint, write_sentences
from testing.families import TEXT, VISION, exact_deberta, inputs_for, load_example, tiny_model
from testing.learngenes import OPTIONS
from testing.numerics import assert_close_for
from testing.training import NO_DROPOUT, Images


exact_deberta()

SHRUNK = {"hidden_size": 16, "num_hidden_layers": 2, "method": "weight_selection"}
GROWN = {"hidden_size": 48, "num_hidden_layers": 5, "method": "lemon"}
CLOSE = 1e-6  # float64; DeBERTa reads its query biases back in float32
HEADS = ("ForImageClassification", "ForSequenceClassification", "ForMaskedLM")


def head_of(kind: str) -> str:
    """The class of a family that is tested: with a task head, where it has one."""
    classes = {**VISION, **TEXT}[kind]
    return next((c for head in HEADS for c in classes if c.endswith(head)), classes[-1])


RESIZED = [
    # layers that share one set of weights are no depth to choose from
    *((k, head_of(k), {**SHRUNK, "num_hidden_layers": 3} if k == "albert" else SHRUNK) for k in (*VISION, *TEXT)),
    ("vit", "ViTForImageClassification", GROWN),
    ("dinov2", "Dinov2Model", GROWN),
    ("bert", "BertForMaskedLM", GROWN),
    ("modernbert", "ModernBertForMaskedLM", GROWN),
]


def output(model, inputs):
    torch.manual_seed(0)  # ViT-MAE draws an order of its patches
    with torch.no_grad():
        found = model(**inputs)
    return found["logits"] if "logits" in found else found["last_hidden_state"]


def with_adapter(model, seed=0, **options):
    torch.manual_seed(seed)
    # a fresh adapter is the identity, and would agree with anything
    return get_peft_model(
        model, LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False, **options)
    ).eval()


def check_adapter(model, folder):
    """An adapter changes the model, learns alone, and is the same when it is loaded or merged."""
    inputs = inputs_for(model)
    model.save_pretrained(folder / "base")
    plain = output(model, inputs)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    tied = {name for name, module in model.named_modules() if module is model.get_output_embeddings()}
    adapted = with_adapter(model)
    wanted = output(adapted, inputs)
    assert (wanted - plain).abs().max() > 1e-3
    assert {n for n, m in adapted.get_base_model().named_modules() if hasattr(m, "lora_A")} == linear - tied

    adapted(**inputs)[0].square().sum().backward()
    learning = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert learning
    assert all("lora_" in name for name in learning)

    adapted.save_pretrained(folder / "adapter")
    fresh = type(model).from_pretrained(folder / "base")
    loaded = PeftModel.from_pretrained(fresh, folder / "adapter").eval()
    torch.testing.assert_close(output(loaded, inputs), wanted, rtol=0, atol=CLOSE)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model)
    torch.testing.assert_close(output(merged, inputs), wanted, rtol=0, atol=CLOSE)
    merged.save_pretrained(folder / "merged")
    again = type(model).from_pretrained(folder / "merged")
    torch.testing.assert_close(output(again, inputs), wanted, rtol=0, atol=CLOSE)


@pytest.mark.parametrize(
    ("kind", "name", "request_"), RESIZED, ids=lambda p: p["method"] if isinstance(p, dict) else p
)
def test_every_resized_family_takes_an_adapter(kind, name, request_, tmp_path):
    check_adapter(resize(tiny_model(kind, name), **request_), tmp_path)


FITTED = [("vit", "ViTForImageClassification"), ("bert", "BertForSequenceClassification"), ("beit", "BeitModel")]


@pytest.mark.parametrize(
    ("learngene", "kind", "name"), [(kind, *FITTED[i % len(FITTED)]) for i, kind in enumerate(OPTIONS)]
)
def test_every_learngenes_descendant_takes_an_adapter(learngene, kind, name, tmp_path):
    fitted = AutoLearngene.from_ancestry(tiny_model(kind, name), learngene, **OPTIONS[learngene])
    check_adapter(fitted.initialize(num_hidden_layers=4), tmp_path)


@pytest.mark.parametrize("request_", [SHRUNK, GROWN], ids=["shrunk", "grown"])
def test_an_adapter_fits_the_model_resized_anew(request_, tmp_path):
    source = save_checkpoint(tmp_path / "source", "bert", "BertForMaskedLM")
    inputs = inputs_for(source)
    first, second = (AutoModelForMaskedLM.from_pretrained_resized(tmp_path / "source", **request_) for _ in range(2))
    adapted = with_adapter(first)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(second, tmp_path / "adapter").eval()
    assert_close_for(output(loaded, inputs), output(adapted, inputs))


def test_an_adapter_resumes_in_a_fresh_one(tmp_path):
    base = resize(tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, torch.float32), **SHRUNK)

    def train(output, seed, resume=None):
        model = with_adapter(copy.deepcopy(base), seed, modules_to_save=["classifier"])
        args = TrainingArguments(str(output), max_steps=4, save_steps=2, per_device_train_batch_size=4, learning_rate=1e-2,
                                 use_cpu=True, report_to="none", disable_tqdm=True)  # fmt: skip
        CheckpointSafeTrainer(model, args, train_dataset=Images()).train(resume_from_checkpoint=resume)
        return model.state_dict()

    first = train(tmp_path / "first", seed=1)
    second = train(tmp_path / "second", seed=2, resume=str(tmp_path / "first" / "checkpoint-2"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-6, msg=name)
    frozen = base.state_dict()
    for name, tensor in first.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if plain in frozen:
            assert torch.equal(tensor, frozen[plain]), name


# ---- the example


@pytest.fixture
def example(tmp_path):
    save_checkpoint(tmp_path / "bert", "bert", "BertForSequenceClassification")
    data = write_sentences(tmp_path / "train.jsonl")
    arguments = ["--model_name_or_path", str(tmp_path / "bert"), "--train_file", str(data), "--output_dir", str(tmp_path / "out"),
                 "--max_steps", "2", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--report_to", "none",
                 "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "true"]  # fmt: skip
    return load_example("finetune_lora"), arguments


def test_the_example_adapts_a_grown_bert(example, tmp_path):
    script, arguments = example
    sizes = ["--hidden_size", "48", "--num_hidden_layers", "4", "--lora_rank", "2", "--merge"]
    results = script.main([*arguments, *sizes, "--test_file", str(tmp_path / "train.jsonl")])
    assert {"train_loss", "test_accuracy"} <= results.keys()
    out = tmp_path / "out"
    base = AutoModelForSequenceClassification.from_pretrained(out / "base")
    assert (base.config.hidden_size, base.config.num_hidden_layers, base.config.num_labels) == (48, 4, 2)
    assert base.config.learngene["passes"][0]["method"] == "lemon"
    settings = json.loads((out / "adapter_config.json").read_text())
    assert (settings["r"], settings["base_model_name_or_path"]) == (2, str(out / "base"))

    inputs = AutoTokenizer.from_pretrained(out / "merged")(["[CLS] good film [SEP]"], return_tensors="pt")
    merged = AutoModelForSequenceClassification.from_pretrained(out / "merged")
    plain = output(base, inputs)
    adapted = output(PeftModel.from_pretrained(base, out).eval(), inputs)
    torch.testing.assert_close(output(merged, inputs), adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - plain).abs().max() > 1e-4
    assert merged.config.id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label_column", "mood"], "no column 'mood' in the data; columns are sentence, label"),
        (["--train_file", "none.jsonl"], "none.jsonl does not exist"),
        (["--hidden_size", "7"], "hidden_size"),
        (["--target_modules", "qkv"], "No modules were targeted"),
    ],
)
def test_the_example_names_what_is_wrong(example, arguments, message):
    script, common = example
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        script.main([*common, *arguments])


def test_adapters_by_name_are_taken(example, tmp_path):
    script, arguments = example
    script.main([*arguments, "--target_modules", "query,value"])
    adapted = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "base"), tmp_path / "out"
    )
    names = {n.rsplit(".", 1)[-1] for n, m in adapted.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert names == {"query", "value"}
