"""A Hub that answers late, wrongly, partly or not at all, at each of the requests that something makes.

    PYTHONPATH=tests python -m tests.faults.hub --cases 25 --seed 0 --output hub.json

What is fetched or pushed runs undisturbed first, and its requests are written down. Then it runs once for every request and every
fault. It may succeed, as if nothing had been; else it says so by an error of the package or of huggingface_hub, nothing is at the
output or half in the repository, and without the fault the same call succeeds with what is in the same cache.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from faults.commands import state
from faults.outcomes import Case, Outcome, main
from hf_learngene import AutoLearngene, AutoModelForSequenceClassification, plan, push_resized
from hf_learngene.hub import push_folder
from hf_learngene.hub.save import save_resized
from testing.hub import Answer, Fault, Hub
from testing.hub_client import Client, JobError
from testing.hub_jobs import CARD, OPTIONS, classifier, cli
from testing.saving import tokenizer


GIVEN = {"hidden_size": 16, "calibration": None}


# ---- jobs, in the client: each returns what is comparable


def job_plan(output: Path) -> Any:
    return str(plan("user/bert", **GIVEN))


def job_load(output: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained_resized("user/bert", **GIVEN)
    return {name: tensor.double().sum().item() for name, tensor in model.state_dict().items()}


def job_save(output: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained_resized("user/bert", **GIVEN)
    save_resized(model, output, source="user/bert")


def job_command(output: Path) -> Any:
    os.environ["HF_LEARNGENE_DEBUG"] = "1"
    cli("resize", "user/bert", output, "--hidden-size", 16, "--calibration", "none")


def job_init(output: Path) -> Any:
    os.environ["HF_LEARNGENE_DEBUG"] = "1"
    cli("init", "user/sws", output, "--num-hidden-layers", 4)


def job_ancestry(output: Path) -> Any:
    AutoLearngene.from_ancestry("user/bert", "sws", **OPTIONS["sws"]).save_pretrained(output)


def job_push(output: Path) -> Any:
    push_folder(output.parent / "saved", "user/pushed", revision="v2")


def job_push_resized(output: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained_resized(
        output.parent / "saved", method="random", seed=1
    )
    push_resized(model, "user/pushed")


JOBS: dict[str, Callable[[Path], Any]] = {
    "plan": job_plan, "from_pretrained_resized": job_load, "save_resized": job_save, "resize": job_command, "init": job_init,
    "from_ancestry": job_ancestry, "push_folder": job_push, "push_resized": job_push_resized,
}  # fmt: skip
PUSHES = ("push_folder", "push_resized")

# ---- faults


def _html(answer: Answer) -> Answer:
    return Answer(
        b"<!DOCTYPE html><html><body>Please log in</body></html>", 200, {**answer.headers, "Content-Type": "text/html"}
    )


def _other_size(answer: Answer) -> Answer:
    size = {"X-Linked-Size": "7"} if "X-Linked-Size" in answer.headers else {}
    return replace(answer, headers={**answer.headers, **size})


def _other_tag(answer: Answer) -> Answer:
    tags = {n: '"0000"' for n in answer.headers if n.lower() in ("etag", "x-linked-etag")}
    return replace(answer, headers={**answer.headers, **tags})


def _other_bytes(answer: Answer) -> Answer:
    return replace(answer, body=bytes(byte ^ 1 for byte in answer.body))


def _shorter(answer: Answer) -> Answer:
    """Less, by its own account: the length that it tells is that of what it sends."""
    return replace(answer, body=answer.body[: len(answer.body) // 2])


def _empty_json(answer: Answer) -> Answer:
    return Answer(b"{}", 200, {"Content-Type": "application/json"})


FAULTS: dict[str, dict[str, Any]] = {
    "cut at once": {"times": math.inf},
    "cut once": {},
    "cut at 50 bytes": {"after": 50, "times": math.inf},
    **{
        f"status {status}": {"status": status, "times": math.inf}
        for status in (400, 401, 403, 404, 409, 429, 500, 503)
    },
    "status 500 once": {"status": 500},
    "status 429 once": {"status": 429},
    "a page of HTML": {"changed": _html, "times": math.inf},
    "another size": {"changed": _other_size, "times": math.inf},
    "another etag": {"changed": _other_tag, "times": math.inf},
    "other bytes": {"changed": _other_bytes, "times": math.inf},
    "half of the bytes": {"changed": _shorter, "times": math.inf},
    "an empty object": {"changed": _empty_json, "times": math.inf},
}
LATE = {"silent": {"times": math.inf, "stall": 3}}
# which of them change nothing that this protocol can tell by: the Hub itself says that the content is this
UNTOLD = ("other bytes", "half of the bytes", "a page of HTML")


@dataclass
class Asked:
    """A Hub and a client of it, both filled.

    Attributes:
        hub: the server.
        client: a process that does jobs.
        place: an empty folder.
    """

    hub: Hub
    client: Client
    place: Path

    def fill(self) -> None:
        """As it is before each job."""
        self.hub.clear()
        self.hub.create("user/bert")
        self.hub.upload("user/bert", self.place / "bert", **{"README.md": CARD})
        self.hub.create("user/sws")
        self.hub.upload("user/sws", self.place / "sws")
        self.hub.create("user/pushed")

    def prepare(self) -> None:
        classifier().save_pretrained(self.place / "bert")
        tokenizer().save_pretrained(self.place / "bert")
        AutoLearngene.from_ancestry(classifier(), "sws", **OPTIONS["sws"]).save_pretrained(self.place / "sws")
        model = AutoModelForSequenceClassification.from_pretrained_resized(self.place / "bert", **GIVEN)
        self.saved = save_resized(model, self.place / "saved", source=self.place / "bert")

    def run(self, name: str, folder: Path, cache: Path) -> tuple[Any, JobError | None]:
        """What a job gives, or its error; what it wrote is part of it."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "saved").exists():
            (folder / "saved").symlink_to(self.place / "saved")
        try:
            found = self.client.run(JOBS[name], folder / "out", cache=cache)
        except JobError as error:
            return None, error
        return found, None

    def there(self, name: str, folder: Path) -> Any:
        """What came of a job: in the repository that is pushed to, or in the folder."""
        if name in PUSHES:
            repo = self.hub.repos["user/pushed"]
            branches = {branch: self.hub.files("user/pushed", branch) for branch in repo.refs}
            return {
                branch: sorted((n, len(content)) for n, content in files.items()) for branch, files in branches.items()
            }
        return state(folder / "out")


def answers(asked: Asked, jobs: list[str], cases: int, seed: int) -> Iterator[Case]:
    """Every fault at every request of some jobs, `cases` of each job at most."""
    asked.prepare()
    for name in jobs:
        asked.fill()
        before = asked.there(name, asked.place / "nowhere")
        asked.hub.calm()
        wanted, error = asked.run(name, asked.place / name, asked.client.cache())
        if error is not None:
            raise RuntimeError(f"{name} does not even run undisturbed: {error}")
        made = asked.there(name, asked.place / name)
        requests = list(dict.fromkeys(f"^{re.escape(str(request))}$" for request in asked.hub.requests))
        draw = random.Random(f"{seed} {name}")
        todo = list(itertools.product(requests, FAULTS))
        todo += [(request, fault) for request in draw.sample(requests, min(3, len(requests))) for fault in LATE]
        if len(todo) > cases:
            todo = draw.sample(todo, cases)
        for number, (request, fault) in enumerate(todo):
            yield _case(asked, name, asked.place / f"{name}-{number}", request, fault, (wanted, made, before))


def _case(asked: Asked, name: str, folder: Path, request: str, fault: str, known: tuple[Any, Any, Any]) -> Case:
    wanted, made, before = known
    told = f"{fault} at {request[1:-1]}".replace("\\", "")
    asked.fill()
    asked.hub.calm()
    asked.hub.faults = [Fault(request, **(FAULTS | LATE)[fault])]
    cache = asked.client.cache()
    found, error = asked.run(name, folder, cache)
    there = asked.there(name, folder)
    if error is not None:
        if "Died" in error.kinds:
            return Case(name, told, Outcome.HUNG, error.message)
        if not _is_typed(error):
            return Case(name, told, Outcome.UNTYPED, f"{error.kinds[0]}: {error.message[:200]}")
        # a commit that was made, and whose answer was lost, is there whole
        if there not in (before, made) and not (name in PUSHES and _is_a_branch(there, before)):
            return Case(name, told, Outcome.HALF, str(there)[:200])
    elif not _same(found, there, wanted, made):
        return Case(name, told, Outcome.HALF, f"it says that it is done: {str(there)[:200]}")
    if left := [path.name for path in folder.iterdir() if path.name not in ("out", "saved")]:
        return Case(name, told, Outcome.HALF, f"litter stays: {left}")
    asked.hub.calm()
    if error is None:
        return Case(name, told, Outcome.WHOLE)
    again, error_again = asked.run(name, folder, cache)
    if error_again is not None and fault in UNTOLD and "force_download" in error_again.message:
        # the client keeps what it was sent, and compares no hash: its cache has to be told
        return Case(name, told, Outcome.TYPED, f"{error_again.kinds[0]}: {error_again.message[:200]}")
    if error_again is not None or not _same(again, asked.there(name, folder), wanted, made):
        return Case(
            name,
            told,
            Outcome.HALF,
            f"the second run: {error_again.message[:200] if error_again else 'another result'}",
        )
    return Case(name, told, Outcome.TYPED, f"{error.kinds[0]}: {error.message[:200]}")


def _same(found: Any, there: Any, wanted: Any, made: Any) -> bool:
    """Whether a job gave what it gives. A tokenizer that could not be fetched may be left out, and the card may lack a licence or
    the commit, where the Hub did not say it; the weights are the same."""
    if there == made:
        return json.dumps(found, default=repr) == json.dumps(wanted, default=repr)
    if not (isinstance(there, dict) and isinstance(made, dict) and there.keys() <= made.keys()):
        return False
    absent = all(name.startswith(("tokenizer", "special_tokens")) for name in made.keys() - there.keys())
    return absent and there.get("model.safetensors") == made.get("model.safetensors")


def _is_typed(error: JobError) -> bool:
    """Whether it is one of ours, or of those that huggingface_hub documents."""
    return any(
        kind in error.kinds
        for kind in ("LearngeneError", "HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError")
    )


def _is_a_branch(there: Any, before: Any) -> bool:
    """Whether no more was made than a branch of what was there."""
    return all(files in before.values() for files in there.values())


def cases_of(cases: int, seed: int) -> Iterator[Case]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="faults_") as folder, Hub() as hub:
        (Path(folder) / "home").mkdir()
        with Client(hub.endpoint, Path(folder) / "home") as client:
            yield from answers(Asked(hub, client, Path(folder) / "hub"), list(JOBS), cases, seed)


if __name__ == "__main__":
    from faults import hub  # jobs are known by the name of their module

    main("hub", __doc__, hub.cases_of, 25)
