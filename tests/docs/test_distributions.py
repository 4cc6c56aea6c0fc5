"""What is built holds what it should: the sdist is the checkout, the wheel the package and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of what git tracks, with the caches that a used checkout has, and the folder of what was built from it."""
    copy, dist = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for name in (
        "hf_learngene/__pycache__/x.pyc",
        "docs/_build/html/index.html",
        "demo/vit.safetensors",
        ".venv/pyvenv.cfg",
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("")
    command = [sys.executable, "-c", BUILD, str(dist)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dist


def test_the_sdist_is_the_checkout(built):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    made = {"PKG-INFO"} | {name for name in held if ".egg-info/" in name}
    assert sorted(held - made) == sorted(tracked())


def test_the_wheel_is_the_package_alone(built):
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert sorted(held) == sorted(name for name in tracked() if name.startswith("hf_learngene/"))


def test_the_wheel_says_what_it_is_and_needs(built):
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        [folder] = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        archive.extractall(built / "wheel")
    found = PathDistribution(built / "wheel" / folder)
    assert found.metadata["Name"] in ("hf_learngene", "hf-learngene")
    assert found.metadata["License-Expression"] or found.metadata["License"] == "Apache-2.0"
    assert "# hf_learngene" in (found.metadata.get_payload() or found.metadata["Description"])
    assert [e.value for e in found.entry_points if e.name == "hf-learngene"] == ["hf_learngene.cli:main"]


# The names under which a few packages are imported.
IMPORTED = {"scikit-learn": "sklearn", "pillow": "PIL"}
# Used by what the package hands over to: Trainer and `from_pretrained` (accelerate), and PIL image processors (pillow).
ON_BEHALF = {"accelerate", "pillow"}


def test_every_dependency_is_imported_by_the_package():
    section = re.search(r"^install_requires =\n((?:    .*\n)+)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    names = re.findall(r"^    ([\w-]+)", section[1], re.MULTILINE)
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "hf_learngene").rglob("*.py"))
    used = {n for n in names if re.search(rf"^\s*(?:from|import) {IMPORTED.get(n, n)}\b", source, re.MULTILINE)}
    assert len(names) > 8
    assert sorted(set(names) - used - ON_BEHALF) == []
