"""Calibration examples from what people have: paths, columns, pairs, a processor by its name; and no more than is needed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from hf_learngene import AutoModel, errors, resize
from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.processing import processor_for
from hf_learngene.calibration.reading import read_examples
from hf_learngene.calibration.subset import SIZE, spread


TINY = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 1}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(50))]
TEXTS = [f"w{i} w{i + 1}" for i in range(40)]


def bert():
    return BertModel(BertConfig(**TINY, vocab_size=len(WORDS), max_position_embeddings=20)).eval()


def vit():
    return ViTModel(ViTConfig(**TINY, image_size=8, patch_size=4)).eval()


def tokenizer():
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def processor():
    return ViTImageProcessorPil(size={"height": 8, "width": 8})


def pictures(count):
    return [Image.fromarray(np.full((9, 9, 3), i, dtype=np.uint8)) for i in range(count)]


def ids(examples):
    """Every example's tokens, padding left out."""
    return [row[row != 0].tolist() for batch in examples.batches() for row in batch["input_ids"]]


def words(*texts):
    return [2, *itertools.chain.from_iterable([*(WORDS.index(w) for w in t.split()), 3] for t in texts)]


# ---- paths


def write_table(kind, path):
    data = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 20})
    if kind == "txt":
        path.write_text("\n\n \n".join(TEXTS))
    elif kind == "disk":
        data.save_to_disk(path)
    elif kind == "splits":
        DatasetDict({"test": data.select([0]), "train": data}).save_to_disk(path)
    else:
        {"csv": data.to_csv, "jsonl": data.to_json, "json": data.to_json, "parquet": data.to_parquet}[kind](path)


@pytest.mark.parametrize("kind", ["txt", "csv", "json", "jsonl", "parquet", "disk", "splits"])
@pytest.mark.parametrize("form", [str, lambda path: path])
def test_texts_are_read_from_what_lies_there(kind, form, tmp_path):
    path = tmp_path / ("data" if kind in ("disk", "splits") else f"data.{kind}")
    write_table(kind, path)
    assert ids(Examples(form(path), bert(), tokenizer())) == [words(t) for t in TEXTS]


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_a_folder_of_files_is_all_of_them(kind, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        write_table(kind, tmp_path / "in" / name / f"{name}.{kind}")
    assert len(read_examples(tmp_path / "in")) == 80
    (tmp_path / "in" / ".hidden.json").write_text("{")
    assert len(read_examples(tmp_path / "in")) == 80


def test_a_folder_of_images(tmp_path):
    for number, image in enumerate(pictures(40)):
        (tmp_path / f"{number % 2}").mkdir(exist_ok=True)
        image.save(tmp_path / f"{number % 2}" / f"{number}.png")
    (tmp_path / "README.txt").write_text("images")
    examples = Examples(tmp_path, vit(), processor())
    assert examples.given_count == 40
    assert examples.tokens == 40 * 4
    files = sorted(map(str, tmp_path.glob("0/*.png")))
    assert Examples(files, vit(), processor()).given_count == 20


def test_a_path_shrinks_a_model_as_its_examples_do(tmp_path):
    write_table("txt", tmp_path / "a.txt")
    source, given = bert(), {"processing_class": tokenizer(), "intermediate_size": 20}
    made, wanted = resize(source, calibration=tmp_path / "a.txt", **given), resize(source, calibration=TEXTS, **given)
    for a, b in zip(made.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none", "none does not exist"),
        (lambda p: f"{p}/imgs/", "imgs/ does not exist"),
        (lambda p: "none.csv", "none.csv does not exist"),
        (lambda p: "./synthetic", "./synthetic does not exist"),
        (lambda p: "nobody/nothing", "no file or folder 'nobody/nothing', and no data set of that name"),
        (lambda p: p, "holds no images, no files that end in .parquet, .csv"),
        (lambda p: written(p / "a.xlsx", "x"), "a.xlsx ends in none of .parquet"),
        (lambda p: written(p / "a.png", "x"), "one image: give the folder"),
        (lambda p: written(p / "a.jsonl", '{"text": 3'), "cannot be read as a data set"),
        (lambda p: written(p / "a.csv", "x") and written(p / "b.jsonl", "x") and p, "holds csv and json files"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(make, message, tmp_path):
    with pytest.raises(errors.CalibrationError, match=message):
        resize(bert(), calibration=make(tmp_path), processing_class=tokenizer(), intermediate_size=20)


def written(path, text):
    path.write_text(text)
    return path


def test_a_missing_split_is_named(tmp_path):
    DatasetDict({"a": Dataset.from_dict({"text": ["x"]}), "b": Dataset.from_dict({"text": ["x"]})}).save_to_disk(
        tmp_path
    )
    with pytest.raises(errors.CalibrationError, match="no split 'train'; it has a, b"):
        read_examples(tmp_path)


def test_damaged_images_are_named(tmp_path):
    pictures(1)[0].save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(errors.CalibrationError, match="example 1 cannot be read"):
        list(Examples(tmp_path, vit(), processor()).batches())


# ---- columns


@pytest.mark.parametrize(
    "names",
    [("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "context"), ("question", "sentence"),
     ("question1", "question2")],
)  # fmt: skip
def test_both_texts_of_a_pair_are_read(names):
    rows = [{names[0]: f"w{i}", names[1]: f"w{i + 1} w3", "label": 0} for i in range(40)]
    examples = Examples(rows, bert(), tokenizer())
    assert ids(examples) == [words(f"w{i}", f"w{i + 1} w3") for i in range(40)]
    assert next(examples.batches())["token_type_ids"][0].tolist() == [0, 0, 0, 1, 1, 1]


def test_the_column_that_is_named_is_read():
    rows = [{"sentence1": f"w{i}", "sentence2": f"w{i + 1}", "id": "a"} for i in range(40)]
    one = Examples(rows, bert(), tokenizer(), calibration_column="sentence2")
    assert ids(one) == [words(f"w{i + 1}") for i in range(40)]
    two = Examples(rows, bert(), tokenizer(), calibration_column=["sentence2", "sentence1"])
    assert ids(two) == [words(f"w{i + 1}", f"w{i}") for i in range(40)]
    with_ids = [{"input_ids": [5], "text": "w1"}] * 40
    assert ids(Examples(with_ids, bert())) == [[5]] * 40
    assert ids(Examples(with_ids, bert(), tokenizer(), calibration_column="text")) == [words("w1")] * 40
    assert ids(Examples(with_ids, bert(), calibration_column="input_ids")) == [[5]] * 40


def test_the_only_column_of_texts_is_read_by_its_type():
    rows = [{"review": t, "label": "good", "stars": 3} for t in TEXTS]
    assert ids(Examples(rows, bert(), tokenizer())) == [words(t) for t in TEXTS]
    shown = [{"photo": p, "id": i} for i, p in enumerate(pictures(3))]
    assert Examples(shown, vit(), processor()).given_count == 3


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ({"title": "w1", "body": "w2"}, None, r"Which column.*'title', 'body'.*calibration_column='title', or two.*\('title'"),
        ({"title": "w1", "body": "w2"}, "bodi", "no column 'bodi'; they have 'title', 'body'. Did you mean 'body'"),
        ({"text": "w1"}, ("text", "pair"), "no column 'pair'"),
        ({"text": "w1"}, (), r"name of a column, or two of a pair; it was \(\)"),
        ({"text": "w1"}, ("a", "b", "c"), "or two of a pair"),
        ({"text": "w1"}, 3, "it was 3"),
        ("w1", "text", "the examples have none: they are strs"),
        ({"number": 3}, None, "hold number.*calibration_column="),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_read_are_named(row, column, message):
    with pytest.raises(errors.CalibrationError, match=message):
        Examples([row] * 40, bert(), tokenizer(), calibration_column=column)


def test_a_pair_of_images_is_refused():
    with pytest.raises(errors.CalibrationError, match="reads pixel_values: name one column"):
        Examples([{"a": 1, "b": 2}], vit(), processor(), calibration_column=("a", "b"))


def test_empty_texts_are_left_out(caplog):
    rows = ["w1", "", "  ", None, "w2"]
    assert ids(Examples(rows, bert(), tokenizer())) == [words("w1"), words("w2")]
    with pytest.raises(errors.CalibrationError, match="All 3 calibration examples are empty"):
        list(Examples(["", " ", None], bert(), tokenizer()).batches())


# ---- the processor


@pytest.mark.parametrize(("make", "prepare", "raw"), [(bert, tokenizer, TEXTS), (vit, processor, pictures(40))])
def test_a_processor_by_its_name_or_of_the_checkpoint(make, prepare, raw, tmp_path):
    make().save_pretrained(tmp_path)
    prepare().save_pretrained(tmp_path)
    model = make()
    wanted = list(Examples(raw, model, prepare()).batches())

    def same(found):
        for a, b in zip(found, wanted, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[k], b[k]) for k in a)

    same(Examples(raw, model, str(tmp_path)).batches())
    same(Examples(raw, model, tmp_path).batches())
    same(Examples(raw, model, source=tmp_path).batches())
    same(Examples(raw, type(model).from_pretrained(tmp_path)).batches())
    assert processor_for(model) is None
    with pytest.raises(errors.CalibrationError, match="processing_class=...|Give an? "):
        Examples(raw, model)
    with pytest.raises(errors.CheckpointError, match="has no (tokenizer|image processor)"):
        Examples(raw, model, str(tmp_path / "none"))


def test_no_processor_is_looked_for_where_none_is_needed(monkeypatch):
    monkeypatch.setattr("hf_learngene.calibration.examples.resolved_processor", pytest.fail)
    assert Examples([{"input_ids": [5, 6]}], bert()).tokens == 2


# ---- how many


def test_a_larger_set_is_cut_and_says_so(monkeypatch):
    told = []
    monkeypatch.setattr("hf_learngene.calibration.subset.logger.warning", told.append)
    rows = [{"input_ids": [5 + i % 40, 4 + i // 40]} for i in range(1500)]
    found = Examples(rows, bert())
    assert found.given_count == SIZE
    assert "512 of 1,500" in told[0]
    places = sorted(40 * (b - 4) + a - 5 for a, b in ids(found))
    assert all(i * 1500 // SIZE <= place < (i + 1) * 1500 // SIZE for i, place in enumerate(places))  # from all over
    assert Examples(rows, bert(), calibration_size=1500).given_count == 1500
    assert Examples(Dataset.from_list(rows), bert(), calibration_size=7).given_count == 7
    assert len(told) == 2


@pytest.mark.parametrize(("count", "size"), [(1000, 64), (65, 64), (64, 64), (3, 64), (1000, 1)])
def test_places_are_spread(count, size):
    places = spread(count, size)
    assert len(places) == min(count, size) == len(set(places))
    assert places == sorted(places)
    for number, place in enumerate(places):
        assert number * count // len(places) <= place < (number + 1) * count // len(places) + (count < size)
    assert spread(count, size) == places


def test_a_stream_is_read_to_the_cap_and_no_further(monkeypatch):
    told, read = [], []
    monkeypatch.setattr("hf_learngene.calibration.subset.logger.warning", told.append)

    def stream():
        for i in itertools.count():
            read.append(i)
            yield {"input_ids": [5 + i % 40]}

    examples = Examples(stream(), bert(), calibration_size=70)
    assert ids(examples) == [[5 + i % 40] for i in range(70)]
    assert len(read) == 71
    assert "first 70 examples of a stream" in told[0]
    assert Examples(itertools.islice(stream(), 70), bert(), calibration_size=70).given_count == 70
    assert len(told) == 1


def test_a_loader_is_cut_inside_of_a_batch(monkeypatch):
    told = []
    monkeypatch.setattr("hf_learngene.calibration.examples.logger.warning", told.append)
    loader = DataLoader([{"input_ids": torch.tensor([5, 6])}] * 40, batch_size=8)
    assert Examples(loader, bert(), calibration_size=20).given_count == 20
    assert "first 20 examples of a DataLoader" in told[0]
    assert Examples(loader, bert(), calibration_size=40).given_count == 40
    assert len(told) == 1


@pytest.mark.parametrize("size", [0, -1, 2.5, "all", True])
def test_sizes_that_are_none(size):
    with pytest.raises(errors.CalibrationError, match="calibration_size is a number of examples"):
        Examples(TEXTS, bert(), tokenizer(), calibration_size=size)


def test_a_frame_of_pandas_is_refused_with_what_to_do():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(errors.CalibrationError, match="DataFrame.*from_pandas"):
        Examples(pandas.DataFrame({"text": TEXTS}), bert(), tokenizer())


def test_a_data_set_that_is_no_iterable_is_read_by_place():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, place):
            return {"input_ids": [5 + place]}

    assert ids(Examples(Rows(), bert())) == [[5], [6], [7]]


# ---- made-up ones behind the given


def test_made_up_examples_follow_the_given_ones():
    given, more = [{"input_ids": [5] * 3}] * 40, [{"input_ids": [6] * 4, "attention_mask": [1, 1, 1, 0]}] * 50
    examples = Examples(given, bert(), more=more, calibration_size=30)
    assert (examples.given_count, examples.made_up_count) == (30, 50)
    assert examples.tokens == 30 * 3 + 50 * 3
    assert [len(b["input_ids"]) for b in examples.batches()] == [30, 32, 18]
    assert [b["input_ids"][0, 0].item() for b in examples.batches()] == [5, 6, 6]


def test_what_makes_more_is_told_how_many_tokens_there_are():
    def more(tokens):
        return [{"input_ids": [6]}] * (10 - tokens)

    assert Examples([{"input_ids": [5] * 3}], bert(), more=more).made_up_count == 7
    assert Examples([{"input_ids": [5] * 10}], bert(), more=more).made_up_count == 0
    alone = Examples(None, bert(), more=[{"input_ids": [6]}] * 3)
    assert (alone.given_count, alone.made_up_count, alone.num_batches) == (0, 3, 1)


def test_more_follows_raw_texts():
    examples = Examples(TEXTS, bert(), tokenizer(), more=[{"input_ids": [6]}])
    assert ids(examples)[-2:] == [words(TEXTS[-1]), [6]]


def test_a_column_of_made_up_examples_is_refused():
    with pytest.raises(errors.CalibrationError, match="calibration_column='text' names a column of your own examples"):
        Examples(None, bert(), more=[{"input_ids": [6]}], calibration_column="text")


def test_a_path_that_is_not_there_is_told_before_a_checkpoint_is_looked_for():
    with pytest.raises(errors.CalibrationError, match=r"none.csv does not exist"):
        AutoModel.from_pretrained_resized("no-such-model", hidden_size=16, calibration="none.csv")
