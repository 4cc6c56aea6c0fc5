"""What stands behind the page, without a word about its looks: checkpoints, plans, models, and answers to compare.

A visitor's folder lies in a temporary directory of the visitor's own. Nothing outside it and the host's list is ever opened by a
name that a visitor typed.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_learngene import AutoLearngene, plan, resize, save_resized, synthetic_examples
from hf_learngene.anatomy.inputs import main_input
from hf_learngene.budget.flops import flops
from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.processing import processor_of
from hf_learngene.calibration.record import COMPARED_ON, SYNTHETIC
from hf_learngene.errors import CheckpointError, LearngeneError, nearest
from hf_learngene.hub.sentence import read_modules
from hf_learngene.pruning.agreement import agreement


MOST_PARAMETERS = 400_000_000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/`'\"]+/)+")
_TAKEN = {".json", ".safetensors", ".txt", ".model"}  # no pickles
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
PLAIN = len(_SIZES)
SLIDERS = (*_SIZES, *(f"stage-{n}" for n in range(16)))  # by the size that each sets, or one of a single stage
_HELD_BACK = 64
_UNSEEN = 1234  # seed of examples that a shrink with seed 0 was not fitted on


class PageError(LearngeneError):
    """What a visitor asked for, and why the page does not do it."""


@dataclass(frozen=True)
class SizeField:
    """A size that a slider sets, by the config's own name."""

    name: str
    value: int
    least: int
    most: int
    step: int


class Visit:
    """What one visitor has: a folder that goes with them, the checkpoint, and the models."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True)
        self.name = self.source = ""
        self.opened = 0  # how many checkpoints so far
        self.fields: tuple[SizeField, ...] = ()
        self.processor: Any = None
        self.unread = ""  # why there is no processor
        self.pooling: str | None = None  # of a sentence encoder
        self.model: PreTrainedModel | None = None
        self.made: PreTrainedModel | None = None
        self.learngene: Any = None
        self.descendants: dict[str, Path] = {}

    @property
    def sliders(self) -> list[SizeField | None]:
        """Which size each of `SLIDERS` sets, if any."""
        plain = {f.name: f for f in self.fields}
        staged = [f for f in self.fields if f.name not in _SIZES]
        return [plain.get(name) for name in _SIZES] + (staged + [None] * len(SLIDERS))[: len(SLIDERS) - PLAIN]

    @property
    def path(self) -> Path:
        return Path(self.folder.name)

    def leave(self) -> None:
        self.folder.cleanup()


class Page:
    """The host's side: which checkpoints are offered by name, and how large a model may be."""

    def __init__(self, local: Mapping[str, str | Path] | None = None, most: int = MOST_PARAMETERS) -> None:
        self.local, self.most = {n: str(p) for n, p in (local or {}).items()}, most

    def open(self, visit: Visit, name: str, files: Sequence[str] = ()) -> str:
        """Takes a checkpoint up by its config alone; what it is, in a line.

        Raises:
            LearngeneError: no such checkpoint, a family that is not resized, or one that is too large.
        """
        source, shown = self._source(visit, name.strip(), files)
        found = plan(source)
        self._check_size(found.source_parameters, shown)
        fields = _fields(found.source.sizes)
        staged = sum(f.name not in _SIZES for f in fields)
        if staged > len(SLIDERS) - PLAIN:
            raise PageError(
                f"{shown} has {staged} sizes of its stages; this page has {len(SLIDERS) - PLAIN} sliders for them."
            )
        visit.name, visit.source, visit.model, visit.made, visit.learngene = shown, source, None, None, None
        visit.fields = fields
        visit.opened += 1
        visit.processor, visit.unread = None, ""
        modules = read_modules(source, {})
        visit.pooling = modules.pooling if modules is not None else None
        try:
            visit.processor = processor_of(source, main_input(found.model_class))
        except CheckpointError as error:
            visit.unread = without_folders(str(error))
        return f"**{shown}**: {found.model_class.__name__}, {_parameters(found.source_parameters)}"

    def planned(self, visit: Visit, sizes: Mapping[str, int], keep: bool = False) -> tuple[str, str, dict[str, str]]:
        """What a resize would come to, as Markdown; where each tensor comes from; what becomes of sizes that were left alone."""
        self._check_open(visit)
        wanted = asked(visit, sizes, keep)
        found = plan(visit.source, **wanted)
        self._check_size(found.num_parameters, "The result")
        before, after = found.source_parameters, found.num_parameters
        work = [flops(config, found.model_class) for config in (found.source_config, found.target_config)]
        rows = [
            ("parameters", _count(before), _count(after), after / before),
            ("FLOPs of one example", *map(_count, work), work[1] / work[0]),
            ("memory in float32", _bytes(4 * before), _bytes(4 * after), after / before),
        ]
        lines = ["| | source | result | |", "| --- | ---: | ---: | ---: |"]
        lines += [f"| {name} | {one} | {other} | {share:.0%} |" for name, one, other, share in rows]
        how = found.changes if wanted else "its own size"
        follows = {}
        for field in visit.fields:
            new = found.target.sizes.get(field.name, field.value)
            left = new == int(sizes.get(field.name, field.value))
            follows[field.name] = "" if left else f"becomes {new}, with the others"
        return "\n".join([*lines, "", f"`{found.method}`: {how}"]), str(found), follows

    def make(self, visit: Visit, sizes: Mapping[str, int], keep: bool = False) -> str:
        """The model, and how well it agrees with its source on made-up examples that it has not seen."""
        self._check_open(visit)
        opened, source = visit.opened, self.load(visit)
        made = resize(source, **asked(visit, sizes, keep))
        said = self._compared(visit, source, made)
        self._check_still(visit, opened)
        visit.made = made
        return said

    def load(self, visit: Visit) -> PreTrainedModel:
        """The source, read once."""
        self._check_open(visit)
        if visit.model is None:
            opened = visit.opened
            model = plan(visit.source).model_class.from_pretrained(visit.source).eval()
            self._check_still(visit, opened)
            visit.model = model
        return visit.model

    def saved(self, visit: Visit) -> Path:
        """A zip of the model that was made."""
        if visit.made is None:
            raise PageError("There is no model yet: make one first.")
        return _zipped(visit, visit.made, visit.source, "resized")

    # ---- the second tab

    def condense(self, visit: Visit, share: float) -> str:
        """A learngene of the checkpoint that is open."""
        opened, model = visit.opened, self.load(visit)
        learngene = AutoLearngene.from_ancestry(model, "condensed", stored_share=share)
        self._check_still(visit, opened)
        visit.learngene = learngene
        stored = sum(p.numel() for p in learngene.parameters())
        whole = sum(p.numel() for p in model.parameters())
        visit.descendants.clear()
        return f"A learngene of {_parameters(stored)}, {stored / whole:.0%} of {visit.name}."

    def descend(self, visit: Visit, depths: Sequence[int]) -> str:
        """A model of each depth from the learngene, as a table; each is kept to be downloaded."""
        if visit.learngene is None:
            raise PageError("There is no learngene yet: condense one first.")
        learngene, opened, source = visit.learngene, visit.opened, self.load(visit)
        lines = ["| layers | parameters | |", "| ---: | ---: | --- |"]
        for depth in depths:
            model = learngene.initialize(num_hidden_layers=depth)
            said = self._compared(visit, source, model)
            self._check_still(visit, opened)
            visit.descendants[f"{depth} layers"] = _zipped(visit, model, visit.source, f"{depth}-layers")
            lines.append(f"| {depth} | {_count(sum(p.numel() for p in model.parameters()))} | {said} |")
        return "\n".join(lines)

    # ---- inside

    def _source(self, visit: Visit, name: str, files: Sequence[str]) -> tuple[str, str]:
        if files:
            return str(_taken_in(visit, files)), "your upload"
        if name in self.local:
            return self.local[name], name
        if not _HUB_ID.fullmatch(name) or Path(name).exists():
            raise PageError(
                f"{name!r} is no model of the Hub. Name one like google/vit-base-patch16-224"
                + (f", or one of {', '.join(self.local)}" if self.local else "")
                + f".{nearest(name, self.local)}"
            )
        return name, name

    def _check_open(self, visit: Visit) -> None:
        if not visit.source:
            raise PageError("No checkpoint is open: name one, or upload its files.")

    def _check_size(self, parameters: int, name: str) -> None:
        if parameters > self.most:
            raise PageError(
                f"{name} has {_parameters(parameters)}; this page stops at {_count(self.most)}. On a machine of your own, "
                "from_pretrained_resized has no such limit."
            )

    def _check_still(self, visit: Visit, opened: int) -> None:
        """What was made while the visitor opened another checkpoint is not that one's."""
        if visit.opened != opened:
            raise PageError(
                f"{visit.name} was opened meanwhile, so what was made of the checkpoint before it is dropped."
            )

    def _compared(self, visit: Visit, source: PreTrainedModel, made: PreTrainedModel) -> str:
        examples = synthetic_examples(source, visit.processor, count=_HELD_BACK, seed=_UNSEEN)
        with Examples(examples, source) as unseen:
            found = agreement(source, made, unseen, pooling=visit.pooling)
        return found.on(COMPARED_ON[SYNTHETIC]) if found is not None else "reads other inputs than its source"


def asked(visit: Visit, sizes: Mapping[str, int], keep: bool) -> dict[str, int]:
    """The sizes that a visitor moved. Those left alone follow the source's proportions, or are asked for too, to `keep` them."""
    before = {f.name: f.value for f in visit.fields}
    found = {n: int(v) for n, v in sizes.items() if n in before}
    moved = {n: v for n, v in found.items() if v != before[n]}
    return found if keep and moved else moved


def without_folders(text: str) -> str:
    """A message that names files of the host by their last part: where they lie is not the visitor's business."""
    return _FOLDERS.sub("", text)


def _fields(sizes: Mapping[str, Any]) -> tuple[SizeField, ...]:
    found = []
    for name, value in sizes.items():
        plain = name.partition(".")[0]
        if plain not in _SIZES or not isinstance(value, int):
            continue
        if plain == "num_hidden_layers" or plain == "num_attention_heads":
            found.append(SizeField(name, value, 1, 2 * value, 1))
        elif "." not in name:
            heads = sizes.get("num_attention_heads", 1)
            step = max(1, sizes.get("head_dim", value // heads)) if plain == "hidden_size" else max(1, value // 16)
            found.append(SizeField(name, value, step, 2 * value, step))
    return tuple(found)


def _taken_in(visit: Visit, files: Sequence[str]) -> Path:
    """Uploaded files as a checkpoint's folder, by their base names."""
    folder = visit.path / "upload"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in map(Path, files):
        if file.suffix not in _TAKEN:
            raise PageError(
                f"{file.name} is not taken: upload config.json, *.safetensors and the tokenizer's or processor's files."
            )
        shutil.copyfile(file, folder / file.name)
    if not (folder / "config.json").exists():
        raise PageError("A checkpoint has a config.json; it was not among the files.")
    return folder


def _zipped(visit: Visit, model: PreTrainedModel, source: str, name: str) -> Path:
    folder = save_resized(model, visit.path / name, source=source, overwrite=True)
    return Path(shutil.make_archive(str(visit.path / name), "zip", folder))


def _parameters(count: int) -> str:
    return f"{_count(count)} parameters"


def _count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(int(number))


def _bytes(number: float) -> str:
    return f"{number / 2**20:.0f} MiB"
