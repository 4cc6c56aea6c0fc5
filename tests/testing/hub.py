"""A Hub on loopback: the part of its HTTP API that `huggingface_hub` speaks to push and load models."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from testing.hub_server import Answer, Fault, Refusal, Request, Server, as_json, ranged, route


OWNER, GUEST = "hf_owner", "hf_guest"  # tokens of `user` and of `guest`


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


class Hub:
    """Repositories and blobs in memory, served on two ports: the Hub's own, and its storage, which asks for no token.

    Attributes:
        faults: what goes wrong from now on.
        part_size: of uploads in several parts; None for uploads in one.
        watch: is called with every request before it is answered.
        requests: all so far.
    """

    def __init__(self) -> None:
        self.clear()
        self._servers = [Server(self), Server(self)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)

    def clear(self) -> None:
        """Nothing is there."""
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.repos: dict[str, Repo] = {}
        self.users = {OWNER: "user", GUEST: "guest"}
        self.calm()

    def calm(self) -> None:
        """All switches off, nothing on record."""
        self.faults: list[Fault] = []
        self.part_size: int | None = None
        self.watch: Callable[[Request], None] = lambda request: None
        self.requests: list[Request] = []

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # ---- for tests

    def asked(self, pattern: str) -> list[Request]:
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

    def user(self, request: Request) -> str | None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.users.get(given)

    def open(self, request: Request, name: str, write: bool = False, files: bool = False) -> Repo:
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
    def _whoami(self, request: Request) -> Answer:
        if (user := self.user(request)) is None:
            raise Refusal(401, "Invalid username or password.")
        return as_json({"type": "user", "name": user, "orgs": []})

    @route("POST /api/validate-yaml")
    def _validate(self, request: Request) -> Answer:
        return as_json({"errors": [], "warnings": []})

    @route("POST /api/repos/create")
    def _create(self, request: Request) -> Answer:
        user, asked = self.user(request), request.json()
        if user is None or user != (asked.get("organization") or user):
            raise Refusal(403 if user else 401, "You have no right to create a model here")
        name = f"{user}/{asked['name']}"
        existed = name in self.repos
        if not existed:
            self.create(name, private=asked.get("visibility") == "private")
        return as_json({"url": f"{self.endpoint}/{name}"}, 409 if existed else 200)

    @route("GET /api/models/{repo}(?:/revision/{revision})?")
    def _info(self, request: Request, repo: str, revision: str | None) -> Answer:
        opened = self.open(request, repo)
        commit = opened.at(revision or "main")
        siblings = [{"rfilename": e["path"]} for e in self.entries(opened.commits[commit])]
        if "blobs" in request.query:
            siblings = [
                {"rfilename": e["path"], "blobId": e["oid"], **e} for e in self.entries(opened.commits[commit])
            ]
        gated = "auto" if opened.gated else False
        return as_json({"id": repo, "sha": commit, "private": opened.private, "gated": gated, "siblings": siblings})

    @route("GET /api/models/{repo}/tree/{revision}(?:/{path})?")
    def _tree(self, request: Request, repo: str, revision: str, path: str | None) -> Answer:
        opened = self.open(request, repo)
        found = [e for e in self.entries(opened.commits[opened.at(revision)]) if e["path"].startswith(path or "")]
        if not found:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        return as_json(found)

    @route("POST /api/models/{repo}/(?P<kind>branch|tag)/{revision}")
    def _refer(self, request: Request, repo: str, kind: str, revision: str) -> Answer:
        opened, asked = self.open(request, repo, write=True), request.json()
        branch = kind == "branch"
        name, start = (revision, asked.get("startingPoint", "main")) if branch else (asked["tag"], revision)
        found = opened.refs if branch else opened.tags
        if name in found:
            raise Refusal(409, f"Reference {name} exists already")
        found[name] = opened.at(start)
        return as_json({})

    @route("GET /api/models/{repo}/refs")
    def _refs(self, request: Request, repo: str) -> Answer:
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
        return as_json(found)

    @route("(?:GET|HEAD) /{repo}/resolve/{revision}/{path}")
    def _resolve(self, request: Request, repo: str, revision: str, path: str) -> Answer:
        opened = self.open(request, repo, files=True)
        headers = {"X-Repo-Commit": opened.at(revision)}
        blob = opened.commits[opened.at(revision)].get(path)
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
        content = self.blobs[blob]
        headers["ETag"] = f'"{_git_id(content)}"'
        if not _large(path):
            return ranged(request, content, headers)
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{blob}"'}
        return Answer(status=302, headers={**headers, **linked, "Location": f"{self.storage}/storage/{blob}"})

    @route("GET /storage/{blob}")
    def _download(self, request: Request, blob: str) -> Answer:
        return ranged(request, self.blobs[blob], {"ETag": f'"{blob}"'})

    @route("POST /api/models/{repo}/preupload/{revision}")
    def _preupload(self, request: Request, repo: str, revision: str) -> Answer:
        opened = self.open(request, repo, write=True)
        old = {e["path"]: e.get("lfs", e)["oid"] for e in self.entries(opened.commits[opened.at(revision)])}
        modes = {f["path"]: "lfs" if _large(f["path"]) else "regular" for f in request.json()["files"]}
        files = [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": old.get(p)} for p, m in modes.items()]
        return as_json({"files": files})

    @route("POST /{repo}.git/info/lfs/objects/batch")
    def _batch(self, request: Request, repo: str) -> Answer:
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
        return as_json({"transfer": "multipart" if self.part_size else "basic", "objects": objects})

    @route("PUT /storage/{blob}(?:/{part})?")
    def _put(self, request: Request, blob: str, part: str | None) -> Answer:
        if part is None:
            return self._keep(blob, request.body)
        self.parts[blob, int(part)] = request.body
        return Answer(headers={"ETag": f'"{part}"'})

    @route("POST /{repo}.git/lfs/{blob}")
    def _complete(self, request: Request, repo: str, blob: str) -> Answer:
        numbers = [p["partNumber"] for p in request.json()["parts"]]
        return self._keep(blob, b"".join(self.parts.pop((blob, n)) for n in numbers))

    def _keep(self, blob: str, content: bytes) -> Answer:
        if hashlib.sha256(content).hexdigest() != blob:
            raise Refusal(400, "The content is not what was announced")
        self.store(content)
        return as_json({})

    @route("POST /{repo}.git/info/lfs/verify")
    def _verify(self, request: Request, repo: str) -> Answer:
        asked = request.json()
        if len(self.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "The object is not there")
        return as_json({})

    @route("POST /api/models/{repo}/commit/{revision}")
    def _commit(self, request: Request, repo: str, revision: str) -> Answer:
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
        return as_json({"success": True, "commitOid": made, "commitUrl": url, **answer})


def _large(path: str) -> bool:
    return path.endswith(".safetensors")


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
