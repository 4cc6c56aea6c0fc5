"""The pictures of docs/page.md: the page of examples/space in a headless Chromium, on the checkpoints of ../shared/data.

make page                            # installs what it needs; end it with Ctrl-C
python docs/make_screenshots.py      # minutes
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright


HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"
PORT = 7872
MINUTES = 20 * 60_000  # milliseconds: a busy machine takes its time
NAME = "ViT-S on CIFAR-10"


def main() -> None:
    command = [sys.executable, str(HERE.parent / "examples" / "space" / "app.py"), "--port", str(PORT)]
    command += ["--local", f"{NAME}={DATA / 'vit-small-p14-56-cifar10'}"]
    with subprocess.Popen(command) as server, sync_playwright() as driver:
        _wait()
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(MINUTES)
        page.goto(f"http://127.0.0.1:{PORT}")
        page.locator("#model input").fill(NAME)
        page.locator("#model input").press("Enter")
        page.locator("#open").click()
        _resize(page)
        page.screenshot(path=HERE / "images" / "page_resize.png", full_page=True)
        _learngene(page)
        page.screenshot(path=HERE / "images" / "page_learngene.png", full_page=True)
        browser.close()
        server.terminate()


def _resize(page: Page) -> None:
    for name, value in (("hidden_size", 192), ("intermediate_size", 768)):
        number = page.locator(f"#{name} input[type=number]")
        number.fill(str(value))
        number.press("Enter")
    page.locator("#keep input").check()  # all heads, smaller
    expect(page.locator("#cost")).to_contain_text("head_dim 64 → 32", timeout=MINUTES)
    page.locator("#make").click()
    expect(page.locator("#agreement")).to_contain_text("held-back", timeout=MINUTES)
    rows = pyarrow.parquet.read_table(DATA / "cifar10" / "cifar10_test.parquet").slice(7, 1).to_pydict()
    picture = HERE / "_build" / "asked.png"
    picture.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(rows["image"][0]["bytes"])).save(picture)
    page.locator("#ask-inputs input[type=file]").first.set_input_files(picture)
    expect(page.locator("#ask-inputs img").first).to_be_visible(timeout=MINUTES)
    page.locator("#ask").click()
    expect(page.locator("#said-1")).to_contain_text("%", timeout=MINUTES)


def _learngene(page: Page) -> None:
    page.get_by_role("tab", name="A learngene").click()
    page.locator("#condense").click()
    expect(page.locator("#learngene")).to_contain_text("A learngene of", timeout=MINUTES)
    page.locator("#depths textarea, #depths input").fill("4, 6, 12")
    page.locator("#descend").click()
    expect(page.locator("#descendants")).to_contain_text("held-back", timeout=MINUTES)


def _wait() -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)


if __name__ == "__main__":
    main()
