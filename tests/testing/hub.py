"""A Hub on loopback: the part of its HTTP API that `huggingface_hub` speaks to push and load models."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


OWNER, GUEST = "hf_owner", "hf_guest"  # tokens of `user` and of `guest`
PARTS = {
    "repo": r"(?P<repo>[\w.-]+/[\w.-]+)", "revision": "(?P<revision>[^/]+)", "path": "(?P<path>.+)",
    "blob": "(?P<blob>[0-9a-f]{64})", "part": r"(?P<part>\d+)",
}  # fmt: skip
ROUTES: list[tuple[re.Pattern[str], Callable[..., Answer]]] = []


@dataclass
class ResizeTask:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes = b""
    status: int | None = None  # of the answer

    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An answer that the client makes an error of: by `code`, where there is one."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer(json.dumps({"error": message}).encode(), status, headers)


@dataclass
class Fault:
    """What goes wrong with requests (`"GET /storage/..."`) that `pattern` is found in: the connection is cut.

    Attributes:
        pattern: a regular expression.
        after: bytes of the body, the client's own or the server's, that still pass.
        times: how often; `math.inf` for always.
        stall: seconds of silence before the cut.
        status: an answer of this status takes the place of the cut.
    """

    pattern: str
    after: int = 0
    times: float = 1
    stall: float = 0
    status: int | None = None
    seen: Any = field(default_factory=itertools.count)

    def strikes(self, request: ResizeTask) -> bool:
        return bool(re.search(self.pattern, str(request))) and next(self.seen) < self.times


@dataclass
class Repo:
    commits: dict[str, dict[str, str]] = field(default_factory=dict)  # commit -> path -> blob
    refs: dict[str, str] = field(default_factory=dict)  # branch or pull request -> commit
    tags: dict[str, str] = field(default_factory=dict)
    messages: dict[str, tuple[str, str]] = field(default_factory=dict)  # commit -> its first line, the rest
    private: bool = False
    gated: bool = False

    def at(self, revision: str) -> str:
        commit = {**self.tags, **self.refs}.get(revision, revision)
        if commit not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


def route(pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """`"METHOD path"`, with the names of `PARTS` in braces."""

    def add(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((re.compile(pattern.format(**PARTS)), function))
        return function

    return add


class Hub:
    """Repositories and blobs in memory, served on two ports: the Hub's own, and its storage, which asks for no token.

    Attributes:
        faults: what goes wrong from now on.
        part_size: of uploads in several parts; None for uploads in one.
        watch: is called with every request before it is answered.
        requests: all so far.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.repos: dict[str, Repo] = {}
        self.users = {OWNER: "user", GUEST: "guest"}
        self.calm()
        self._servers = [_Server(self), _Server(self)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)

    def calm(self) -> None:
        """All switches off, nothing on record."""
        self.faults: list[Fault] = []
        self.part_size: int | None = None
        self.watch: Callable[[ResizeTask], None] = lambda request: None
        self.requests: list[ResizeTask] = []

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # ---- for tests

    def asked(self, pattern: str) -> list[ResizeTask]:
        return [r for r in self.requests if re.search(pattern, str(r))]

    def head(self, name: str) -> str:
        return self.repos[name].at("main")

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[name]
        return {path: self.blobs[blob] for path, blob in repo.commits[repo.at(revision)].items()}

    def create(self, name: str, **switches: bool) -> None:
        self.repos[name] = Repo(**switches)
        self.commit(name, {".gitattributes": self.store(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")})

    def upload(self, name: str, folder: Path, **files: str) -> str:
        """A commit of a folder's files, and of others given as text."""
        contents = {f.name: f.read_bytes() for f in folder.iterdir()} | {n: t.encode() for n, t in files.items()}
        return self.commit(name, {path: self.store(content) for path, content in contents.items()})

    # ---- state

    def store(self, content: bytes) -> str:
        blob = hashlib.sha256(content).hexdigest()
        self.blobs[blob] = content
        return blob

    def commit(self, name: str, changes: Mapping[str, str], branch: str = "main") -> str:
        """A new head of a branch."""
        repo = self.repos[name]
        files = {**repo.commits.get(repo.refs.get(branch, ""), {}), **changes}
        commit = hashlib.sha1(json.dumps([name, len(repo.commits), files]).encode()).hexdigest()
        repo.commits[commit] = files
        repo.refs[branch] = commit
        return commit

    def entries(self, files: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path, blob in files.items():
            content = self.blobs[blob]
            # trees name the same hash otherwise than infos do
            known = {"oid": blob, "sha256": blob, "size": len(content), "pointerSize": 134}
            lfs = {"lfs": known} if _large(path) else {}
            found.append({"type": "file", "path": path, "size": len(content), "oid": _git_id(content), **lfs})
        return found

    def user(self, request: ResizeTask) -> str | None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.users.get(given)

    def open(self, request: ResizeTask, name: str, write: bool = False, files: bool = False) -> Repo:
        user, owner = self.user(request), name.partition("/")[0]
        repo = self.repos.get(name)
        if repo is None or (repo.private and user != owner):
            # Over https the client takes every 401 of a repository for this, and needs no code.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != owner:
            raise Refusal(403 if user else 401, f"You have no right to write to {name}")
        if files and repo.gated and user != owner:
            raise Refusal(403 if user else 401, f"Access to model {name} is restricted.", "GatedRepo")
        return repo

    # ---- what the client asks for

    @route("GET /api/whoami-v2")
    def _whoami(self, request: ResizeTask) -> Answer:
        if (user := self.user(request)) is None:
            raise Refusal(401, "Invalid username or password.")
        return _json({"type": "user", "name": user, "orgs": []})

    @route("POST /api/validate-yaml")
    def _validate(self, request: ResizeTask) -> Answer:
        return _json({"errors": [], "warnings": []})

    @route("POST /api/repos/create")
    def _create(self, request: ResizeTask) -> Answer:
        user, asked = self.user(request), request.json()
        if user is None or user != (asked.get("organization") or user):
            raise Refusal(403 if user else 401, "You have no right to create a model here")
        name = f"{user}/{asked['name']}"
        existed = name in self.repos
        if not existed:
            self.create(name, private=asked.get("visibility") == "private")
        return _json({"url": f"{self.endpoint}/{name}"}, 409 if existed else 200)

    @route("GET /api/models/{repo}(?:/revision/{revision})?")
    def _info(self, request: ResizeTask, repo: str, revision: str | None) -> Answer:
        opened = self.open(request, repo)
        commit = opened.at(revision or "main")
        siblings = [{"rfilename": e["path"]} for e in self.entries(opened.commits[commit])]
        if "blobs" in request.query:
            siblings = [
                {"rfilename": e["path"], "blobId": e["oid"], **e} for e in self.entries(opened.commits[commit])
            ]
        gated = "auto" if opened.gated else False
        return _json({"id": repo, "sha": commit, "private": opened.private, "gated": gated, "siblings": siblings})

    @route("GET /api/models/{repo}/tree/{revision}(?:/{path})?")
    def _tree(self, request: ResizeTask, repo: str, revision: str, path: str | None) -> Answer:
        opened = self.open(request, repo)
        found = [e for e in self.entries(opened.commits[opened.at(revision)]) if e["path"].startswith(path or "")]
        if not found:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        return _json(found)

    @route("POST /api/models/{repo}/(?P<kind>branch|tag)/{revision}")
    def _refer(self, request: ResizeTask, repo: str, kind: str, revision: str) -> Answer:
        opened, asked = self.open(request, repo, write=True), request.json()
        branch = kind == "branch"
        name, start = (revision, asked.get("startingPoint", "main")) if branch else (asked["tag"], revision)
        found = opened.refs if branch else opened.tags
        if name in found:
            raise Refusal(409, f"Reference {name} exists already")
        found[name] = opened.at(start)
        return _json({})

    @route("GET /api/models/{repo}/refs")
    def _refs(self, request: ResizeTask, repo: str) -> Answer:
        opened = self.open(request, repo)

        def listed(kind: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": commit} for n, commit in refs.items()]

        requests = {n: c for n, c in opened.refs.items() if n.startswith("refs/pr/")}
        branches = {n: c for n, c in opened.refs.items() if n not in requests}
        found: dict[str, Any] = {
            "branches": listed("heads", branches),
            "tags": listed("tags", opened.tags),
            "converts": [],
        }
        if "include_prs" in request.query:
            found["pullRequests"] = [{"name": n, "ref": n, "targetCommit": c} for n, c in requests.items()]
        return _json(found)

    @route("(?:GET|HEAD) /{repo}/resolve/{revision}/{path}")
    def _resolve(self, request: ResizeTask, repo: str, revision: str, path: str) -> Answer:
        opened = self.open(request, repo, files=True)
        headers = {"X-Repo-Commit": opened.at(revision)}
        blob = opened.commits[opened.at(revision)].get(path)
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
        content = self.blobs[blob]
        headers["ETag"] = f'"{_git_id(content)}"'
        if not _large(path):
            return _ranged(request, content, headers)
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{blob}"'}
        return Answer(status=302, headers={**headers, **linked, "Location": f"{self.storage}/storage/{blob}"})

    @route("GET /storage/{blob}")
    def _download(self, request: ResizeTask, blob: str) -> Answer:
        return _ranged(request, self.blobs[blob], {"ETag": f'"{blob}"'})

    @route("POST /api/models/{repo}/preupload/{revision}")
    def _preupload(self, request: ResizeTask, repo: str, revision: str) -> Answer:
        opened = self.open(request, repo, write=True)
        old = {e["path"]: e.get("lfs", e)["oid"] for e in self.entries(opened.commits[opened.at(revision)])}
        modes = {f["path"]: "lfs" if _large(f["path"]) else "regular" for f in request.json()["files"]}
        files = [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": old.get(p)} for p, m in modes.items()]
        return _json({"files": files})

    @route("POST /{repo}.git/info/lfs/objects/batch")
    def _batch(self, request: ResizeTask, repo: str) -> Answer:
        self.open(request, repo, write=True)
        objects = []
        for item in request.json()["objects"]:
            url, header = f"{self.storage}/storage/{item['oid']}", {}
            if self.part_size:
                count = math.ceil(item["size"] / self.part_size)
                header = {str(n): f"{url}/{n}" for n in range(1, count + 1)} | {"chunk_size": str(self.part_size)}
                url = f"{self.endpoint}/{repo}.git/lfs/{item['oid']}"
            verify = {"href": f"{self.endpoint}/{repo}.git/info/lfs/verify"}
            needed = {} if item["oid"] in self.blobs else {"upload": {"href": url, "header": header}, "verify": verify}
            objects.append({**item, **({"actions": needed} if needed else {})})
        return _json({"transfer": "multipart" if self.part_size else "basic", "objects": objects})

    @route("PUT /storage/{blob}(?:/{part})?")
    def _put(self, request: ResizeTask, blob: str, part: str | None) -> Answer:
        if part is None:
            return self._keep(blob, request.body)
        self.parts[blob, int(part)] = request.body
        return Answer(headers={"ETag": f'"{part}"'})

    @route("POST /{repo}.git/lfs/{blob}")
    def _complete(self, request: ResizeTask, repo: str, blob: str) -> Answer:
        numbers = [p["partNumber"] for p in request.json()["parts"]]
        return self._keep(blob, b"".join(self.parts.pop((blob, n)) for n in numbers))

    def _keep(self, blob: str, content: bytes) -> Answer:
        if hashlib.sha256(content).hexdigest() != blob:
            raise Refusal(400, "The content is not what was announced")
        self.store(content)
        return _json({})

    @route("POST /{repo}.git/info/lfs/verify")
    def _verify(self, request: ResizeTask, repo: str) -> Answer:
        asked = request.json()
        if len(self.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "The object is not there")
        return _json({})

    @route("POST /api/models/{repo}/commit/{revision}")
    def _commit(self, request: ResizeTask, repo: str, revision: str) -> Answer:
        opened = self.open(request, repo, write=True)
        start, number = opened.at(revision), 1 + sum(n.startswith("refs/pr/") for n in opened.refs)
        changes: dict[str, str] = {}
        message = ("", "")
        for line in map(json.loads, request.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = (value["summary"], value["description"])
            elif line["key"] == "file":
                changes[value["path"]] = self.store(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.blobs:
                    raise Refusal(400, f"{value['path']} points to an object that was not uploaded")
                changes[value["path"]] = value["oid"]
        answer = {}
        if "create_pr" in request.query:
            revision = f"refs/pr/{number}"
            opened.refs[revision] = start
            answer["pullRequestUrl"] = f"{self.endpoint}/{repo}/discussions/{number}"
        made = self.commit(repo, changes, revision)
        opened.messages[made] = message
        url = f"{self.endpoint}/{repo}/commit/{made}"
        return _json({"success": True, "commitOid": made, "commitUrl": url, **answer})


def _large(path: str) -> bool:
    return path.endswith(".safetensors")


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(content: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


def _ranged(request: ResizeTask, content: bytes, headers: dict[str, str]) -> Answer:
    """All of a file, or what a broken download lacks."""
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    if not asked:
        return Answer(content, headers=headers)
    start, size = int(asked[1]), len(content)
    if start >= size:
        raise Refusal(416, "Range not satisfiable", **{"Content-Range": f"bytes */{size}"})
    return Answer(content[start:], 206, {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"})


# ---- HTTP


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        request = ResizeTask(self.command, url.path, parse_qs(url.query), self.headers)
        hub.requests.append(request)
        fault = next((f for f in hub.faults if f.strikes(request)), None)
        cut = fault if fault and fault.status is None else None
        length = int(self.headers.get("Content-Length") or 0)
        if cut and length:
            self.rfile.read(min(cut.after, length))
            return self._cut(cut)
        request.body = self.rfile.read(length)
        hub.watch(request)
        answer = Answer(status=fault.status) if fault and fault.status else self._answer(request)
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: cut.after] if cut else answer.body)
        return self._cut(cut) if cut else None

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _answer(self, request: ResizeTask) -> Answer:
        for pattern, function in ROUTES:
            if found := pattern.fullmatch(str(request)):
                given = {n: v if v is None else unquote(v) for n, v in found.groupdict().items()}
                try:
                    return function(self.server.hub, request, **given)
                except Refusal as refusal:
                    return refusal.answer
        return Answer(status=501)

    def _cut(self, fault: Fault) -> None:
        time.sleep(fault.stall)
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Requests are on record."""
