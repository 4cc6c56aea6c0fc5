"""The page of `examples/space` as a visitor uses it, in a headless browser (`make test-page`)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from transformers import BertConfig, BertForMaskedLM, ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from testing.families import randomise
from testing.hub import OWNER, Hub
from testing.hub_client import online
from testing.trained_tokenizers import bert as bert_tokenizer


SPACE = Path(__file__).resolve().parents[2] / "examples" / "space"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="`make test-page` installs what this needs")
pytest.importorskip("gradio")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
SLOW = 120_000  # milliseconds: what a busy machine may take
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def hub():
    """A Hub on loopback."""
    with Hub() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory, hub):
    """A page that offers two tiny checkpoints and those of the Hub, and turns away what has more than 100,000 parameters."""
    folder = tmp_path_factory.mktemp("page")
    tokenizer = bert_tokenizer()
    tokenizer.save_pretrained(folder / "bert")
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **SIZES)
    randomise(BertForMaskedLM(config)).save_pretrained(folder / "bert")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / "vit")
    randomise(
        ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=4, **SIZES))
    ).save_pretrained(folder / "vit")
    large = SIZES | {"hidden_size": 96, "intermediate_size": 384}
    ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **large)).save_pretrained(folder / "huge")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    local = [f"--local={name}={folder / name}" for name in ("bert", "vit", "huge")]
    command = [sys.executable, str(SPACE / "app.py"), "--port", str(port), "--most", "100000", *local]
    hub.create("a-lab/bert")
    hub.upload("a-lab/bert", folder / "bert")
    environment = online(hub.endpoint, folder / "home")
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as server,
    ):
        found = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(found, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield found
        server.terminate()
    said = (folder / "log").read_text()
    assert "Traceback" not in said, said


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser, address):
    found = browser.new_page()
    found.set_default_timeout(SLOW)
    found.goto(address)
    yield found
    found.close()


def opened(page, name: str) -> None:
    page.locator("#model input").fill(name)
    page.locator("#model input").press("Enter")
    page.locator("#open").click()


def move(page, size: str, value: int) -> None:
    number = page.locator(f"#{size} input[type=number]")
    number.fill(str(value))
    number.press("Enter")


def said(page, where: str, text: str) -> str:
    found = page.locator(where)
    sync_api.expect(found).to_contain_text(text, timeout=SLOW)
    return found.inner_text()


def test_shrink_a_bert_try_it_and_download_it(page, tmp_path):
    opened(page, "bert")
    said(page, "#about", "BertForMaskedLM")
    move(page, "intermediate_size", 32)
    assert "100%" not in said(page, "#cost", "intermediate_size 64 → 32")
    page.locator("#make").click()
    said(page, "#agreement", "held-back made-up examples")
    page.locator("#try-0 textarea").fill("the [MASK] of a larger tree")
    page.locator("#ask").click()
    for side in ("#said-0", "#said-1"):
        assert "%" in said(page, side, "%")
    with page.expect_download(timeout=SLOW) as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").stat().st_size > 1000


def test_the_heads_are_kept_where_they_are_left_alone(page):
    opened(page, "vit")
    said(page, "#about", "ViTForImageClassification")
    move(page, "hidden_size", 16)
    said(page, "#cost", "num_attention_heads 4 → 2")
    page.locator("#keep input").check()
    sync_api.expect(page.locator("#cost")).not_to_contain_text("num_attention_heads", timeout=SLOW)
    said(page, "#cost", "hidden_size 32 → 16")


def test_grow_a_vit(page):
    opened(page, "vit")
    said(page, "#about", "ViTForImageClassification")
    move(page, "num_hidden_layers", 4)
    said(page, "#cost", "lemon")
    page.locator("#make").click()
    said(page, "#agreement", "100.0 %")


def test_three_sizes_from_a_learngene(page):
    opened(page, "vit")
    said(page, "#about", "ViTForImageClassification")
    page.get_by_role("tab", name="A learngene").click()
    page.get_by_label("a half").check()
    page.locator("#condense").click()
    said(page, "#learngene", "A learngene of")
    page.locator("#depths textarea, #depths input").fill("1, 2, 3")
    page.locator("#descend").click()
    table = said(page, "#descendants", "held-back made-up examples")
    assert table.count("held-back made-up examples") == 3


def test_push_a_model_of_the_hub_back_to_it(page, hub):
    opened(page, "a-lab/bert")
    said(page, "#about", "BertForMaskedLM")
    move(page, "intermediate_size", 32)
    said(page, "#cost", "64 → 32")
    page.locator("#make").click()
    said(page, "#agreement", "held-back made-up examples")
    page.get_by_label("or push to").fill("user/small-bert")
    page.get_by_label("your token").fill("wrong")
    page.get_by_role("button", name="Push").click()
    sync_api.expect(page.locator(".toast-close").first).to_be_visible(timeout=SLOW)
    page.locator(".toast-close").first.click()
    page.get_by_label("your token").fill(OWNER)
    page.get_by_role("button", name="Push").click()
    said(page, "#agreement", "Pushed")
    files = hub.files("user/small-bert")
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= files.keys()
    assert b"a-lab/bert" in files["README.md"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no such model", "is no model of the Hub"),
        ("huge", "this page stops at 100.0 k"),
        ("../bert", "is no model of the Hub"),
    ],
)
def test_a_wrong_or_huge_model_is_told(page, name, reason):
    opened(page, name)
    sync_api.expect(page.get_by_text(reason)).to_be_visible(timeout=SLOW)
    page.locator(".toast-close").first.click()
    sync_api.expect(page.get_by_text("Error", exact=True)).to_have_count(0)  # nothing on the page is marked as broken
    opened(page, "vit")  # and the page goes on
    said(page, "#about", "ViTForImageClassification")


def test_a_name_is_taken_while_another_is_still_looked_for(page, hub):
    asked, answer = threading.Event(), threading.Event()

    def late(request):
        if "a-lab/late" in request.path:
            asked.set()
            answer.wait(60)

    hub.watch = late
    opened(page, "a-lab/late")
    assert asked.wait(60)
    opened(page, "vit")
    answer.set()
    said(page, "#about", "ViTForImageClassification")
    hub.calm()


def test_a_closed_tab_leaves_the_page_to_others(browser, address):
    left = browser.new_page()
    left.set_default_timeout(SLOW)
    left.goto(address)
    opened(left, "bert")
    said(left, "#about", "BertForMaskedLM")
    move(left, "intermediate_size", 32)
    said(left, "#cost", "64 → 32")
    left.locator("#make").click()
    left.close()
    other = browser.new_page()
    other.set_default_timeout(SLOW)
    other.goto(address)
    opened(other, "vit")
    said(other, "#about", "ViTForImageClassification")
    other.close()


def test_nothing_is_drawn_anew(monkeypatch):
    """What is drawn anew loses a move in that moment, with a traceback: its event names a function that is gone."""
    monkeypatch.syspath_prepend(str(SPACE))
    import app

    assert app.build(app.Page()).renderables == []


@pytest.mark.parametrize("work", ["made", "condensed", "descended"])
def test_long_work_shows_the_packages_progress_bars(monkeypatch, work):
    """Gradio looks for the tracker among the arguments of what draws a function, where it is drawn: then no bar moves."""
    monkeypatch.syspath_prepend(str(SPACE))
    import app
    from gradio.helpers import special_args

    (event,) = [e for e in app.build(app.Page()).fns.values() if e.name == work]
    given, place, _, _ = special_args(event.fn, list(range(len(event.inputs))))
    assert place is not None
    assert given[place].track_tqdm
