"""The teacher's logits on disk: used again for the same teacher, data and normalisation, and for nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import ViTImageProcessorPil

from hf_learngene import errors
from hf_learngene.training import digest
from testing.training import Images, teacher_of, trainer_of


def processor(mean):
    return ViTImageProcessorPil(image_mean=[mean] * 3, image_std=[0.5] * 3)


def images(place=None, by=1.0):
    """The same images each time, but for one entry of one image."""
    data = Images(count=40)
    if place is not None:
        data.pixels[place, 1, 6, 6] += by
    return data


def made(folder, data=None, teacher="default", mean=0.5, **given):
    more = {"processing_class": processor(0.5), "teacher_processing_class": processor(mean), **given}
    return trainer_of("vit", "plain", folder, teacher, cache_teacher=True, train_dataset=data or images(), **more)


def asked(folder, **other):
    """How many examples the teacher is asked for before a training begins, and the trainer with its cache."""
    trainer = made(folder, **other)
    seen = []
    trainer.teacher.model.register_forward_hook(lambda _m, _i, outputs: seen.append(len(outputs.logits)))
    trainer._fill_cache(trainer.teacher)
    return sum(seen), trainer


def killed(trainer, at):
    """Fills the cache until the teacher is asked for the `at`th batch."""
    seen = []

    def stop(*_):
        seen.append(1)
        if len(seen) == at:
            raise KeyboardInterrupt

    trainer.teacher.model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        trainer._fill_cache(trainer.teacher)


def truth(trainer):
    with torch.no_grad():
        return trainer.teacher({"pixel_values": trainer.train_dataset.dataset.pixels}).logits


def is_true(trainer):
    torch.testing.assert_close(trainer.cache[torch.arange(40)], truth(trainer))


def test_the_same_is_used_again(tmp_path):
    assert [asked(tmp_path)[0] for _ in range(2)] == [40, 0]


def swapped():
    """A teacher whose weights have the same sums."""
    model = teacher_of("vit")
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    return model


@pytest.mark.parametrize(
    "other",
    [{"data": images(17)}, {"data": images(17, 1e-6)}, {"data": images(0)}, {"data": images(39)}, {"mean": 0.4},
     {"teacher": teacher_of("vit", seed=8)}, {"teacher": swapped()}],
    ids=["middle", "little", "first", "last", "normalisation", "teacher", "same sums"],
)  # fmt: skip
def test_another_is_not(other, tmp_path):
    asked(tmp_path)
    count, trainer = asked(tmp_path, **other)
    assert count == 40
    is_true(trainer)
    assert asked(tmp_path)[0] == 0  # the first is still there


def darker(examples):
    made = torch.utils.data.default_collate(examples)
    return {**made, "pixel_values": made["pixel_values"] / 2}


def test_another_collator_is_known_by_what_it_makes(tmp_path):
    """The digest of the data says nothing of what becomes of it in a batch."""
    asked(tmp_path)
    count, trainer = asked(tmp_path, data_collator=darker)
    assert count == 40
    torch.testing.assert_close(
        trainer.cache[torch.arange(40)],
        trainer.teacher({"pixel_values": trainer.train_dataset.dataset.pixels / 2}).logits,
    )
    assert [asked(tmp_path)[0], asked(tmp_path, data_collator=darker)[0]] == [0, 0]  # both are still there


def noisy(examples):
    made = torch.utils.data.default_collate(examples)
    return {**made, "pixel_values": made["pixel_values"] + torch.randn_like(made["pixel_values"])}


class Augmented(Images):
    def __getitem__(self, index):
        example = super().__getitem__(index)
        return {**example, "pixel_values": example["pixel_values"] + torch.randn(3, 12, 12)}


@pytest.mark.parametrize("other", [{"data_collator": noisy}, {"data": Augmented(40)}], ids=["collator", "data set"])
def test_batches_that_are_drawn_at_random_are_refused(other, tmp_path):
    with pytest.raises(errors.TeacherError, match="the data set or the data_collator draws random numbers. Turn"):
        asked(tmp_path, **other)
    assert not list(tmp_path.iterdir())


def test_large_tensors_are_read_whole(tmp_path):
    first, second = ([{"x": torch.zeros(3, 200, 200), "labels": 0}] * 3 for _ in range(2))
    second[1] = {"x": torch.zeros(3, 200, 200), "labels": 0}
    assert digest.of_data(first) == digest.of_data(second)
    second[1]["x"][1, 100, 100] = 1e-9
    assert digest.of_data(first) != digest.of_data(second)


def test_a_fingerprint_stands_for_its_data(monkeypatch):
    data = Dataset.from_dict({"x": [1, 2, 3]})
    found = digest.of_data(data)
    assert found != digest.of_data(data.map(lambda row: {"x": row["x"] + 1}))
    monkeypatch.setattr(type(data), "__getitem__", None)  # no example is read
    assert digest.of_data(data) == found


def test_of_very_many_examples_evenly_spread_ones_count(monkeypatch):
    monkeypatch.setattr(digest, "LOOKS", 5)
    read = []

    class Counted(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    digest.of_data(Counted(range(101)))
    assert read == [0, 25, 50, 75, 100]
    assert digest.of_data([1]) != digest.of_data([1, 1])


def test_what_is_digested_is_exact_and_the_same_in_every_process():
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    other = picture.copy()
    other.putpixel((2, 2), (0, 0, 0))
    values = [1, 1.0, True, "1", b"1", None, [1], [[1]], [1, 1], {"a": 1}, {1: 1}, picture, other, picture.convert("P"),
              torch.ones(2), torch.ones(2, 1), torch.ones(2).bfloat16(), np.ones(2), np.array([1, "a"], object), {1, 2},
              ["ab"], ["a", "b"], torch.zeros(0)]  # fmt: skip
    assert len({digest.of_values(v) for v in values}) == len(values)
    assert digest.of_values({"a": 1, "b": 2}) == digest.of_values({"b": 2, "a": 1})
    assert digest.of_values(torch.arange(9.0), "a", {"b": [1]}).startswith("1e31129a260207bc")
    with pytest.raises(errors.TrainingDataError, match="holds a generator, which has no bytes"):
        digest.of_values(i for i in range(2))


# ---- a run that was killed


def left_behind(folder, filled, progress):
    """The cache of a whole run, taken back to what a run killed after `filled` examples leaves."""
    _, trainer = asked(folder)
    whole = trainer.cache.path.with_suffix(".npy")
    partial, beside = (trainer.cache.path.with_suffix(s) for s in (".partial.npy", ".json"))
    rows = np.load(whole)
    rows[filled:] = 99
    np.save(partial, rows)
    whole.unlink()
    if progress is not None:
        beside.write_text(progress)
    return partial, beside


@pytest.mark.parametrize(
    ("progress", "count"),
    [('{"rows": 24}', 16), ('{"rows": 40}', 0), (None, 40), ("", 40), ('{"rows"', 40), ('{"rows": 48}', 40), ("[]", 40),
     ('{"rows": 0}', 40)],
)  # fmt: skip
def test_what_is_filled_is_kept_and_no_more(progress, count, tmp_path):
    done = 40 - count
    partial, beside = left_behind(tmp_path, done, progress)
    again, trainer = asked(tmp_path)
    assert again == count
    is_true(trainer)
    assert not partial.exists()
    assert not beside.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_rows_that_were_cut_off_are_begun_anew(content, tmp_path):
    partial, _ = left_behind(tmp_path, 24, '{"rows": 24}')
    partial.write_bytes(partial.read_bytes()[:-100] if content is None else content)
    again, trainer = asked(tmp_path)
    assert again == 40
    is_true(trainer)


def test_old_progress_does_not_vouch_for_new_rows(tmp_path):
    """Rows lost, progress kept; begun anew and killed once more; then the old progress must not count."""
    partial, beside = left_behind(tmp_path, 24, '{"rows": 24}')
    partial.unlink()
    killed(made(tmp_path), 2)
    assert partial.exists()
    assert not beside.exists()
    again, trainer = asked(tmp_path)
    assert again == 40
    is_true(trainer)


def test_progress_is_noted_on_the_way(tmp_path):
    trainer = trainer_of("vit", "plain", tmp_path, cache_teacher=True, train_dataset=Images(count=130),
                         per_device_train_batch_size=1, per_device_eval_batch_size=1)  # fmt: skip
    killed(trainer, 120)
    assert json.loads(next(tmp_path.glob("*.json")).read_text()) == {"rows": 100}
    assert not list(tmp_path.glob("*.tmp"))
