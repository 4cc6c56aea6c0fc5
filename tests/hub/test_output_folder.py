"""Nothing that is needed is deleted, and nothing is left lying about, whenever a run is killed."""

from __future__ import annotations

import errno
import os
import signal
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from safetensors import SafetensorError
from transformers import BertForMaskedLM, BertTokenizer

from hf_learngene import resize, save_resized
from hf_learngene.cli import app
from hf_learngene.errors import CheckpointError, OutputError
from hf_learngene.hub.output import check_output, whole_or_absent


@pytest.fixture
def bert(bert_folder):
    return BertForMaskedLM.from_pretrained(bert_folder)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def write(path: Path, text: str, overwrite: bool = False) -> None:
    path = check_output(path, overwrite)
    with whole_or_absent(path, overwrite, 1) as folder:
        (folder / "config.json").write_text(text)


# ---- what is read is not replaced


@pytest.mark.parametrize("output", ["runs", "runs/source", "link", "runs/../runs"])
def test_an_output_around_its_source_is_refused(bert, tmp_path, output):
    for name in ("runs", "runs/source", "runs/sibling"):
        bert.save_pretrained(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "source")
    before = everything(tmp_path)
    with pytest.raises(OutputError, match="replac"):
        save_resized(
            resize(bert, hidden_size=16, calibration=None),
            tmp_path / output,
            source=tmp_path / "runs/source",
            overwrite=True,
        )
    assert everything(tmp_path) == before


@pytest.mark.parametrize("source", ["out", "out/data.parquet", "link/data.parquet"])
def test_what_is_needed_is_kept(tmp_path, source):
    write(tmp_path / "out", "{}")
    (tmp_path / "out" / "data.parquet").write_text("rows")
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(OutputError, match="replacing that would delete it"):
        check_output(tmp_path / "out", True, None, tmp_path / "elsewhere", tmp_path / source)
    assert check_output(tmp_path / "out", True, tmp_path, "google/vit") == tmp_path / "out"


def test_a_model_is_not_saved_over_the_one_it_was_made_from(bert_folder):
    model = resize(BertForMaskedLM.from_pretrained(bert_folder), hidden_size=16, calibration=None)
    before = everything(bert_folder)
    with pytest.raises(OutputError, match="would delete it"):
        save_resized(model, bert_folder, overwrite=True)
    assert everything(bert_folder) == before


def test_folders_inside_a_model_are_not_deleted_with_it(tmp_path):
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "checkpoint-5").mkdir()
    with pytest.raises(OutputError, match="`checkpoint-5` would be deleted"):
        write(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "config.json").read_text() == "old"


def test_the_command_refuses_before_it_reads(bert_folder, tmp_path, capsys, monkeypatch):
    from typer.testing import CliRunner

    given = ["resize", str(bert_folder), str(bert_folder), "--hidden-size", "16", "--overwrite"]
    (bert_folder / "model.safetensors").unlink()  # whoever reads it would say so
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert "would delete it" in " ".join(done.output.split())


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 300, "x/" * 3000, os.fsdecode(b"a\xffb")], ids=["zero", "long", "deep", "bytes"]
)
def test_what_is_no_path_is_refused(bert, bert_folder, tmp_path, name):
    from typer.testing import CliRunner

    with pytest.raises(OutputError, match="is no path for a folder"):
        save_resized(bert, tmp_path / name)
    built = CliRunner().invoke(app, ["build", str(bert_folder), str(tmp_path / name), "--steps", "0"])
    said = " ".join(built.output.split())
    assert (built.exit_code, "is no path for a folder" in said or "null byte" in said) == (
        2,
        True,
    )  # the parser's word
    assert os.listdir(tmp_path) == ["bert"]


@pytest.mark.parametrize("output", ["loop", "loop/out", "other"])
def test_a_link_that_leads_to_itself_is_refused_before_anything_is_read(tmp_path, output):
    (tmp_path / "loop").symlink_to("other")
    (tmp_path / "other").symlink_to("loop")
    with pytest.raises(OutputError, match="is a link that leads back to itself. Delete it"):
        check_output(tmp_path / output)
    (tmp_path / "other").unlink()  # a link to nothing is a name for what is made there
    assert check_output(tmp_path / "loop") == tmp_path / "other"


# ---- runs that are killed


def write_until(path: Path, when: str, reached: Connection) -> None:
    """Stops for good while it writes, or before its first or second rename, and says so."""
    rename, renamed = os.rename, []

    def stop() -> None:
        reached.send(None)
        signal.pause()

    def counted(*names: object) -> None:
        if when == str(len(renamed)):
            stop()
        renamed.append(names)
        rename(*names)

    os.rename = counted
    path = check_output(path, True)
    with whole_or_absent(path, True, 1) as folder:
        (folder / "config.json").write_text("new")
        if when == "writing":
            stop()


@pytest.fixture
def stopped(tmp_path):
    """A run that has stopped at a point. It is a fork: a process with imports of its own takes seconds to start."""
    if not hasattr(os, "fork"):
        pytest.skip("runs are forks")
    context, runs = get_context("fork"), []

    def start(when: str) -> BaseProcess:
        here, there = context.Pipe(duplex=False)
        runs.append(context.Process(target=write_until, args=(tmp_path / "out", when, there)))
        runs[-1].start()
        there.close()  # or its end would not be seen
        here.recv()
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
        run.join()


@pytest.mark.parametrize("when", ["writing", "0", "1"])
def test_the_next_run_clears_away_what_a_killed_one_left(stopped, tmp_path, when):
    write(tmp_path / "out", "old")
    run = stopped(when)
    assert len(os.listdir(tmp_path)) == 2
    assert (tmp_path / "out").exists() == (when != "1")
    write(tmp_path / "other", "beside it")  # has nothing to do with it
    assert len(os.listdir(tmp_path)) == 3
    run.kill()
    run.join()
    with pytest.raises(OutputError, match="exists already"):
        check_output(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]
    assert (tmp_path / "out" / "config.json").read_text() == "old"
    write(tmp_path / "out", "newer", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]
    assert (tmp_path / "out" / "config.json").read_text() == "newer"


@pytest.mark.parametrize("when", ["writing", "1"])
def test_a_run_that_lives_keeps_what_it_has(stopped, tmp_path, when):
    write(tmp_path / "out", "old")
    stopped(when)
    before = everything(tmp_path)
    check_output(tmp_path / "out", True)
    assert everything(tmp_path) == before


def test_only_litter_is_swept(tmp_path):
    names = [".out.txt", ".out.0123abcd.partial.txt", ".out2.0123abcd.partial", ".out.0123abcd.other", ".out.0123.old"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.0123abcd.partial").write_text("a file")
    (tmp_path / ".out.0123abce.partial").symlink_to(tmp_path / ".out.txt")
    check_output(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, ".out.0123abcd.partial", ".out.0123abce.partial"])


@pytest.mark.parametrize("name", ["a[b]*?", "é ü", ".hidden"])
def test_odd_names_are_swept_too(tmp_path, name):
    (tmp_path / f".{name}.0123abcd.partial").mkdir()
    (tmp_path / f".{name}.0123abcd.old").mkdir()
    (tmp_path / f".{name}.0123abcd.old" / "config.json").write_text("{}")
    assert check_output(tmp_path / name, True) == tmp_path / name
    assert os.listdir(tmp_path) == [name]


# ---- disks that are full


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "too little space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "too little space"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "too little space",
        ),
        (OSError(errno.EFBIG, "File too large"), r"larger than the file system or a limit \(`ulimit -f`\) allows"),
        (
            SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
            "larger than the file system",
        ),
        (
            SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
            "could not be written",
        ),
    ],
    ids=lambda p: str(p)[-30:],
)
def test_what_the_disk_does_not_take_is_told(tmp_path, error, says):
    path = check_output(tmp_path / "out")
    with pytest.raises(OutputError, match=says), whole_or_absent(path, False, 1):
        raise error
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_files():
    """No file may grow beyond 10 kB."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_may_not_be_as_large_is_told(bert, tmp_path, small_files):
    model = resize(bert, num_hidden_layers=5)
    with pytest.raises(OutputError, match="larger than the file system"):
        save_resized(model, tmp_path / "out")
    assert not [name for name in os.listdir(tmp_path) if "out" in name]


def test_a_full_temporary_folder_is_told(bert, tmp_path, monkeypatch):
    import tempfile

    from hf_learngene import push_resized, trim_tokenizer

    def full(*given, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "b"]
    for verb in (
        lambda: push_resized(resize(bert, hidden_size=16, calibration=None), "me/x"),
        lambda: trim_tokenizer(BertTokenizer({word: i for i, word in enumerate(words)}), ["a b"]),
    ):
        with pytest.raises(OutputError, match="temporary folder"):
            verb()


# ---- links in a source


def test_a_link_out_of_the_source_is_refused(bert, bert_folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    (bert_folder / "vocab.txt").symlink_to(secret)
    with pytest.raises(CheckpointError, match="vocab.txt` is a link that leads out of its folder"):
        save_resized(resize(bert, hidden_size=16, calibration=None), tmp_path / "out", source=bert_folder)
    assert not (tmp_path / "out").exists()


def test_links_inside_the_source_and_of_the_cache_are_followed(bert, bert_folder, tmp_path):
    (bert_folder / "words.txt").write_text("[PAD]\n[UNK]\n")
    (bert_folder / "vocab.txt").symlink_to("words.txt")
    (tmp_path / "link").symlink_to(bert_folder)
    for number, source in enumerate((bert_folder, tmp_path / "link")):
        out = save_resized(resize(bert, hidden_size=16, calibration=None), tmp_path / f"out{number}", source=source)
        assert (out / "vocab.txt").read_text() == "[PAD]\n[UNK]\n"
    repository = tmp_path / "cache" / "models--me--bert"
    snapshot = repository / "snapshots" / ("0" * 40)
    for place in (repository / "blobs", repository / "refs", snapshot):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "blobs" / "1234").write_text("[PAD]\n")
    (repository / "blobs" / "5678").write_text((bert_folder / "config.json").read_text())
    (snapshot / "vocab.txt").symlink_to("../../blobs/1234")
    (snapshot / "config.json").symlink_to("../../blobs/5678")
    loading = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    out = save_resized(
        resize(bert, hidden_size=16, calibration=None), tmp_path / "from_hub", source="me/bert", loading=loading
    )
    assert (out / "vocab.txt").read_text() == "[PAD]\n"
