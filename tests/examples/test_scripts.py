"""The example scripts run end to end on tiny models and data, and say plainly what is wrong with an argument."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from testing.families import load_example


WORDS = ["good", "bad", "fine", "poor", "film", "plot"]
COLORS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture(scope="module")
def image_script():
    return load_example("run_image_classification_resized")


@pytest.fixture(scope="module")
def text_script():
    return load_example("run_text_classification_resized")


# Images


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, image_size=16, patch_size=4
    )
    ViTForImageClassification(config).to(torch.bfloat16).save_pretrained(path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(path)
    return path


def make_images(count, seed=0):
    generator = np.random.default_rng(seed)
    names = [list(COLORS)[number % 2] for number in range(count)]
    noise = generator.integers(0, 60, (count, 10, 12, 3))
    pixels = [
        np.clip(np.array(COLORS[name]) * 0.7 + n, 0, 255).astype(np.uint8)
        for name, n in zip(names, noise, strict=True)
    ]
    return [PILImage.fromarray(p) for p in pixels], names


@pytest.fixture(scope="module")
def image_parquet(tmp_path_factory):
    images, names = make_images(24)
    features = Features({"picture": Image(), "colour": ClassLabel(names=list(COLORS))})
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    Dataset.from_dict({"picture": images, "colour": names}, features=features).to_parquet(path)
    return path


def common(output, cache, **options):
    """Arguments for a run of a few steps on the CPU."""
    defaults = {
        "output_dir": output,
        "cache_dir": cache,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    flags = ["--do_train", "--do_eval"]
    for name, value in {**defaults, **options}.items():
        flags += [f"--{name}", str(value)]
    return flags


def image_arguments(vit, data, output, cache, **options):
    columns = {"image_column_name": "picture", "label_column_name": "colour", "validation_split": 0.25}
    return [f"--model_name_or_path={vit}", f"--train_file={data}", *common(output, cache, **columns, **options)]


def weights(path, auto_class):
    return auto_class.from_pretrained(path).state_dict()


def same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_trains_a_resized_image_classifier(image_script, vit, image_parquet, tmp_path):
    options = {"hidden_size": 8, "num_hidden_layers": 1, "image_size": 24, "random_flip": "true"}
    argv = image_arguments(vit, image_parquet, tmp_path / "out", tmp_path / "cache", **options)
    results = image_script.main([*argv, f"--test_file={image_parquet}", "--do_predict"])
    assert results["train_samples"] == 18
    assert results["eval_samples"] == 6
    assert results["test_samples"] == 24
    assert 0 <= results["eval_accuracy"] <= 1
    for prefix in ("train", "eval", "test"):
        saved = json.loads((tmp_path / "out" / f"{prefix}_results.json").read_text())
        assert saved.items() <= results.items()

    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.image_size) == (8, 1, 24)
    assert dict(processor.size) == {"height": 24, "width": 24}
    assert model.config.id2label == {0: "blue", 1: "red"}
    assert model.config.label2id == {"blue": 0, "red": 1}
    # The checkpoint is in half precision; training it there would lose small updates.
    assert model.dtype == torch.float32
    pixels = processor(make_images(2)[0], return_tensors="pt")["pixel_values"]
    assert model(pixels).logits.shape == (2, 2)


def test_learns_colours(image_script, vit, image_parquet, tmp_path):
    argv = image_arguments(vit, image_parquet, tmp_path / "out", tmp_path / "cache", hidden_size=8, max_steps=30)
    assert image_script.main(argv)["eval_accuracy"] == 1


def test_reads_folders_of_images(image_script, vit, tmp_path):
    for number, (image, name) in enumerate(zip(*make_images(12), strict=True)):
        for part in ("train", "validation"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    argv = [f"--model_name_or_path={vit}", f"--train_dir={tmp_path / 'train'}"]
    argv += common(tmp_path / "out", tmp_path / "cache", hidden_size=8, max_steps=1)
    assert image_script.main(argv)["eval_samples"] == 2
    results = image_script.main([*argv, f"--validation_dir={tmp_path / 'validation'}", "--max_eval_samples=7"])
    assert (results["train_samples"], results["eval_samples"]) == (12, 7)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_reads_tables_of_paths(image_script, vit, suffix, tmp_path):
    rows = []
    for number, (image, name) in enumerate(zip(*make_images(8), strict=True)):
        image.save(tmp_path / f"{number}.png")
        rows.append({"picture": str(tmp_path / f"{number}.png"), "colour": name})
    table = Dataset.from_list(rows)
    path = tmp_path / f"train.{suffix}"
    table.to_csv(path) if suffix == "csv" else table.to_json(path)
    argv = image_arguments(vit, path, tmp_path / "out", tmp_path / "cache", hidden_size=8, max_steps=1)
    image_script.main(argv)
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "out").config
    assert config.id2label == {0: "blue", 1: "red"}


def test_random_start_is_a_method(image_script, vit, image_parquet, tmp_path):
    argv = image_arguments(vit, image_parquet, tmp_path / "out", tmp_path / "cache", hidden_size=8, max_steps=1)
    image_script.main([*argv, "--method=random"])
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "out").config
    assert config.learngene["passes"][0]["method"] == "random"


# Text


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        num_hidden_layers=2,
        max_position_embeddings=16,
    )
    BertForSequenceClassification(config).save_pretrained(path)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **names).save_pretrained(path)
    return path


def make_sentences(count, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        words = generator.choice(["film", "plot"], generator.integers(1, 30)).tolist()
        rows.append({"sentence": " ".join([WORDS[number % 2], *words]), "mood": ["warm", "cold"][number % 2]})
    return rows


@pytest.fixture(scope="module")
def text_jsonl(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in make_sentences(24)))
    return path


def text_arguments(bert, data, output, cache, **options):
    columns = {"label_column_name": "mood", "validation_split": 0.25}
    return [f"--model_name_or_path={bert}", f"--train_file={data}", *common(output, cache, **columns, **options)]


def test_trains_a_resized_text_classifier(text_script, bert, text_jsonl, tmp_path):
    argv = text_arguments(bert, text_jsonl, tmp_path / "out", tmp_path / "cache", num_hidden_layers=1, hidden_size=8)
    results = text_script.main([*argv, f"--test_file={text_jsonl}", "--do_predict", "--max_train_samples=10"])
    assert results["train_samples"] == 10
    assert results["test_samples"] == 24
    assert {"eval_accuracy", "eval_f1", "eval_matthews_correlation"} <= results.keys()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (8, 1)
    assert model.config.id2label == {0: "cold", 1: "warm"}
    assert model(**tokenizer(["good film"], return_tensors="pt")).logits.shape == (1, 2)
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["eval_f1"] == results["eval_f1"]


def test_grows_a_text_classifier(text_script, bert, text_jsonl, tmp_path):
    argv = text_arguments(bert, text_jsonl, tmp_path / "out", tmp_path / "cache", hidden_size=32, max_steps=1)
    text_script.main([*argv, "--method=lemon"])
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.hidden_size == 32


def test_reads_pairs_of_texts_from_parquet(text_script, bert, tmp_path):
    rows = [
        {"a": row["sentence"], "b": "good plot", "label": number % 3} for number, row in enumerate(make_sentences(9))
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    argv = [f"--model_name_or_path={bert}", f"--train_file={tmp_path / 'pairs.parquet'}", "--text_column_names=a, b"]
    argv += [f"--validation_file={tmp_path / 'pairs.parquet'}"]
    results = text_script.main([*argv, *common(tmp_path / "out", tmp_path / "cache", hidden_size=8, max_steps=1)])
    assert (results["train_samples"], results["eval_samples"]) == (9, 9)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.num_labels == 3


def test_arguments_from_a_file(text_script, bert, text_jsonl, tmp_path):
    arguments = {
        "model_name_or_path": str(bert),
        "train_file": str(text_jsonl),
        "label_column_name": "mood",
        "output_dir": str(tmp_path / "out"),
        "cache_dir": str(tmp_path / "cache"),
        "do_eval": True,
        "use_cpu": True,
    }
    (tmp_path / "run.json").write_text(json.dumps(arguments))
    assert text_script.main([str(tmp_path / "run.json")])["eval_samples"] == 3


# Both


def script_and_arguments(kind, request, tmp_path, output, **options):
    """The script of a kind, its arguments for a shrink, and the class that loads what it writes."""
    if kind == "image":
        script, model, data = (request.getfixturevalue(name) for name in ("image_script", "vit", "image_parquet"))
        argv = image_arguments(model, data, tmp_path / output, tmp_path / "cache", hidden_size=8, **options)
        return script, argv, AutoModelForImageClassification
    script, model, data = (request.getfixturevalue(name) for name in ("text_script", "bert", "text_jsonl"))
    argv = text_arguments(model, data, tmp_path / output, tmp_path / "cache", hidden_size=8, **options)
    return script, argv, AutoModelForSequenceClassification


@pytest.mark.parametrize("kind", ["image", "text"])
def test_resuming_equals_going_on(kind, request, tmp_path):
    script, argv, auto_class = script_and_arguments(kind, request, tmp_path, "whole", save_steps=2)
    script.main(argv)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    script, argv, _ = script_and_arguments(kind, request, tmp_path, "resumed", save_strategy="no")
    script.main([*argv, f"--resume_from_checkpoint={checkpoint}"])
    same_weights(weights(tmp_path / "whole", auto_class), weights(tmp_path / "resumed", auto_class))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_best_model_is_the_one_saved(kind, request, tmp_path):
    options = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "learning_rate": 1.0,
        "load_best_model_at_end": "true",
        "metric_for_best_model": "eval_loss",
        "method": "weight_selection",
    }
    script, argv, auto_class = script_and_arguments(kind, request, tmp_path, "out", **options)
    results = script.main(argv)
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    losses = {row["step"]: row["eval_loss"] for row in history["log_history"] if "eval_loss" in row}
    best = min(losses, key=losses.get)
    # At such a learning rate the last step is not the best one, or this would test nothing.
    assert best != max(losses)
    assert results["eval_loss"] == pytest.approx(losses[best], rel=1e-4)
    same_weights(weights(tmp_path / "out" / f"checkpoint-{best}", auto_class), weights(tmp_path / "out", auto_class))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_checkpoints_fill_a_new_model(kind, request, vit, tmp_path):
    # A model that no checkpoint was read into is saved under historical names, which Trainer cannot read back.
    script = request.getfixturevalue(f"{kind}_script")
    config = ViTConfig.from_pretrained(vit, num_labels=2)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(16, 3, 16, 16, generator=generator)
    examples = [{"pixel_values": image, "labels": number % 2} for number, image in enumerate(pixels)]

    def train(output, seed, resume_from=None):
        torch.manual_seed(seed)
        model = ViTForImageClassification(config)
        args = TrainingArguments(
            output, max_steps=4, save_steps=2, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True
        )
        script.CheckpointSafeTrainer(model, args, train_dataset=examples).train(resume_from_checkpoint=resume_from)
        return model.state_dict()

    first = train(tmp_path / "first", seed=1)
    same_weights(first, train(tmp_path / "second", seed=2, resume_from=str(tmp_path / "first" / "checkpoint-2")))


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_file=none.csv"], r"none\.csv does not exist"),
        (["--train_file=none.txt"], r"none\.txt: expected a file ending in \.parquet, \.csv"),
        (["--dataset_name=a/b"], "give (one of|either)"),
        (["--validation_split=1"], "between 0 and 1, got 1"),
        (["--max_train_samples=0"], "--max_train_samples must be positive, got 0"),
        (["--label_column_name=nope"], "no column 'nope' in the data; columns are"),
        (["--hidden_size=7"], "hidden_size"),
        (["--num_hidden_layers=-1"], "num_hidden_layers"),
        (["--method=magic"], "magic"),
        (["--do_predict"], "--do_predict needs a test split"),
    ],
)
def test_bad_arguments_are_named(kind, arguments, message, request, tmp_path):
    script, argv, _ = script_and_arguments(kind, request, tmp_path, "out")
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        script.main([*argv, *arguments])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["image", "text"])
def test_needs_something_to_do(kind, request, tmp_path):
    script, argv, _ = script_and_arguments(kind, request, tmp_path, "out")
    with pytest.raises(SystemExit, match="nothing to do"):
        script.main([argument for argument in argv if not argument.startswith("--do_")])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_needs_a_checkpoint_that_exists(kind, request, tmp_path):
    script, argv, _ = script_and_arguments(kind, request, tmp_path, "out")
    with pytest.raises(SystemExit, match="^error: "):
        script.main([*argv, f"--model_name_or_path={tmp_path / 'none'}"])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_labels_of_splits_are_matched_by_name(kind, request):
    script = request.getfixturevalue(f"{kind}_script")
    train = Dataset.from_dict({"label": ["b", "a", "c"]})
    other = Dataset.from_dict({"label": [0, 1]}, features=Features({"label": ClassLabel(names=["c", "b"])}))
    splits, names = script.encode_labels(script.DatasetDict(train=train, validation=other), "label")
    assert names == ["a", "b", "c"]
    assert splits["train"]["label"][:] == [1, 0, 2]
    assert splits["validation"]["label"][:] == [2, 1]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_numbers_need_not_start_at_zero(kind, request):
    script = request.getfixturevalue(f"{kind}_script")
    train = Dataset.from_dict({"label": [10, 2, 7]})
    splits, names = script.encode_labels(script.DatasetDict(train=train), "label")
    assert names == ["2", "7", "10"]
    assert splits["train"]["label"][:] == [2, 0, 1]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_labels_that_cannot_be_learnt_are_named(kind, request):
    script = request.getfixturevalue(f"{kind}_script")
    train, other = Dataset.from_dict({"label": ["a", "b"]}), Dataset.from_dict({"label": ["a", "z"]})
    with pytest.raises(ValueError, match="labels in test that train does not have: z"):
        script.encode_labels(script.DatasetDict(train=train, test=other), "label")
    holes = Dataset.from_dict({"label": ["a", None]}, features=Features({"label": Value("string")}))
    with pytest.raises(ValueError, match="without a value in column 'label'"):
        script.encode_labels(script.DatasetDict(train=holes), "label")
