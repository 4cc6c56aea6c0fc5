"""`resize_checkpoint` writes what the ordinary path writes, bit by bit, and holds one tensor at a time."""

from __future__ import annotations

import gc
import sys
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_learngene import resize_checkpoint, write_behind
from hf_learngene.disk import MappedFiles
from hf_learngene.errors import OutputError, UnknownOptionError
from hf_learngene.hub.shards import Shards
from hf_learngene.resizing import streaming, to_folder
from hf_learngene.resizing.streaming import Streamed
from hf_learngene.write_behind import WriteBehind
from testing.families import tiny_model
from testing.method_tester import LARGER, NEEDED, SMALLER, methods_that
from testing.saving import tokenizer
from testing.towers import parted_model


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Resizes in both ways; returns whether it was streamed, and the files of each."""

    def run(source, **given):
        used = list[Streamed]()
        of = Streamed.of

        def watched(*arguments):
            found = of(*arguments)
            used.extend([found] if found is not None else [])
            return found

        found = []
        for way, chosen in (("streamed", watched), ("whole", lambda *_: None)):
            monkeypatch.setattr(to_folder.Streamed, "of", chosen)
            resize_checkpoint(source, tmp_path / way / "made", **given)  # the folder's name stands on the card
            found.append({file.name: file.read_bytes() for file in (tmp_path / way / "made").iterdir()})
        return bool(used), *found

    return run


def saved(folder, model, dtype=torch.float32, **options):
    model.to(dtype).save_pretrained(folder, **options)
    return folder


CASES = [
    ("bert", "BertForMaskedLM", {}, {"num_hidden_layers": 5}),  # a tied decoder
    ("bert", "BertForSequenceClassification", {}, {"hidden_size": 16, "num_labels": 5}),  # a new head
    ("vit", "ViTForImageClassification", {}, {"hidden_size": 48, "num_hidden_layers": 4}),
    ("vit", "ViTModel", {}, {"hidden_size": 16, "num_hidden_layers": 4}),  # two passes
    ("albert", "AlbertForMaskedLM", {}, {"hidden_size": 48}),
    ("modernbert", "ModernBertForMaskedLM", {}, {"intermediate_size": 20}),
    ("esm", "EsmForMaskedLM", {}, {"num_hidden_layers": 5}),
    ("ibert", "IBertForMaskedLM", {}, {"num_hidden_layers": 2}),  # buffers are saved
    ("wav2vec2", "Wav2Vec2ForCTC", {}, {"num_hidden_layers": 2}),  # a weight held as length and direction
    ("vit_mae", "ViTMAEForPreTraining", {}, {"num_hidden_layers": 2}),  # a decoder beside, computed positions
    ("deit", "DeiTForImageClassificationWithTeacher", {}, {"image_size": 16}),
    ("roberta", "RobertaForTokenClassification", {}, {"max_position_embeddings": 20}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "name", "extra", "sizes"), CASES, ids=[case[1] for case in CASES])
def test_what_is_written_is_the_same_bit_by_bit(both, tmp_path, kind, name, extra, sizes, dtype):
    source = saved(tmp_path / "source", tiny_model(kind, name, extra), dtype, max_shard_size="10KB")
    streamed, one, other = both(source, calibration=None, max_shard_size="8KB", **sizes)
    assert streamed
    assert len([file for file in one if file.endswith(".safetensors")]) > 1
    assert one == other


@pytest.mark.parametrize("method", methods_that(needs_examples=False, learns=False))
def test_every_method_without_examples_is_streamed(both, tmp_path, method):
    source = saved(tmp_path / "source", tiny_model("bert", "BertForMaskedLM"))
    smaller, larger = NEEDED.get(method, ({}, {}))
    for wanted, options in ((SMALLER, smaller), (LARGER, larger)):
        for sizes in wanted:
            try:
                streamed, one, other = both(source, method=method, overwrite=True, **sizes, **options)
            except ValueError:  # a size that the method does not make
                continue
            assert streamed
            assert one == other
            return
    raise AssertionError(f"{method} made nothing")


def test_both_towers(both, tmp_path):
    source = saved(tmp_path / "source", parted_model("CLIPModel"))
    sizes = {"vision_config.num_hidden_layers": 3, "text_config.intermediate_size": 20}
    streamed, one, other = both(source, calibration=None, **sizes)
    assert streamed
    assert one == other


def test_a_tokenizer_goes_along(both, tmp_path):
    source = saved(tmp_path / "source", tiny_model("bert", "BertModel"))
    tokenizer().save_pretrained(source)
    _, one, other = both(source, num_hidden_layers=5)
    assert "tokenizer.json" in one
    assert one == other


def test_what_a_checkpoint_lacks_starts_anew(both, tmp_path):
    """The encoder alone, loaded with a head."""
    from transformers import BertForMaskedLM

    source = saved(tmp_path / "source", tiny_model("bert", "BertModel"))
    streamed, one, other = both(source, model_class=BertForMaskedLM, num_hidden_layers=5)
    assert streamed
    assert one == other


def test_examples_and_refits_load_the_model(tmp_path, monkeypatch):
    source = saved(tmp_path / "source", tiny_model("bert", "BertForMaskedLM"))
    found = []
    of = Streamed.of
    monkeypatch.setattr(to_folder.Streamed, "of", lambda *given: found.append(of(*given)) or found[-1])
    resize_checkpoint(source, tmp_path / "made", hidden_size=16, method="calibrated")
    assert found == [None]
    assert load_file(tmp_path / "made" / "model.safetensors")


def test_one_tensor_at_a_time_is_alive(tmp_path, monkeypatch):
    source = saved(tmp_path / "source", tiny_model("bert", "BertForMaskedLM"))
    alive, most = weakref.WeakSet(), []
    make = streaming._Weights.__getitem__

    def watched(self, name):
        gc.collect()
        made = make(self, name)
        alive.add(made)
        most.append(len(alive))
        return made

    monkeypatch.setattr(streaming._Weights, "__getitem__", watched)
    monkeypatch.setattr(write_behind, "ROOM", 0)  # as if each were larger than what may wait together
    resize_checkpoint(source, tmp_path / "made", hidden_size=48)
    assert len(most) > 50
    assert max(most) <= 2  # the one being written, and the next


def test_what_is_kept_is_given_back_once_it_is_written(tmp_path, monkeypatch):
    source = saved(tmp_path / "source", tiny_model("bert", "BertForMaskedLM"))
    events = []
    put, give_back = WriteBehind._put, MappedFiles.give_back

    def putting(self, piece):
        put(self, piece)
        events.append(("written", np.frombuffer(piece, np.uint8).ctypes.data))

    def giving(self, tensor):
        events.append(("given back", tensor.data_ptr()))
        give_back(self, tensor)

    monkeypatch.setattr(WriteBehind, "_put", putting)
    monkeypatch.setattr(MappedFiles, "give_back", giving)
    resize_checkpoint(source, tmp_path / "made", method="layers", layer_map=[0])
    written = [place for event, place in events if event == "written"]
    assert len(written) > 20
    for place in written:
        assert events[events.index(("written", place)) + 1] == ("given back", place)


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    source = saved(tmp_path / "source", tiny_model("bert", "BertForMaskedLM"))
    written = []
    write = Shards._write

    def full(self, out, name, read, told):
        written.append(name)
        if len(written) == 20:
            raise OSError(28, "No space left on device")
        write(self, out, name, read, told)

    monkeypatch.setattr(Shards, "_write", full)
    with pytest.raises(OutputError, match="too little space"):
        resize_checkpoint(source, tmp_path / "made", num_hidden_layers=5)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("size", ["5XB", "", 0, -1, True, 1.5])
def test_a_shard_size_that_is_none_is_refused_before_anything_is_read(tmp_path, size):
    with pytest.raises(UnknownOptionError, match="5GB"):
        resize_checkpoint(tmp_path / "nowhere", tmp_path / "made", num_hidden_layers=5, max_shard_size=size)


def test_the_output_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "made").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        resize_checkpoint(tmp_path / "nowhere", tmp_path / "made", num_hidden_layers=5)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone gives pages back")
def test_memory_of_a_mapped_file_is_given_back(tmp_path):
    values = torch.arange(8_000_000, dtype=torch.float32)
    save_file({"values": values}, tmp_path / "one.safetensors")
    mapped = load_file(tmp_path / "one.safetensors")["values"]
    files = MappedFiles()

    def resident():
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) * 1024

    total = mapped.double().sum()
    before = resident()
    files.give_back(mapped)
    assert before - resident() > 0.9 * mapped.nbytes
    assert mapped.double().sum() == total
    own = values.clone()
    files.give_back(own)  # memory of its own is left alone
    assert torch.equal(own, values)
