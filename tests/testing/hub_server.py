"""HTTP of a Hub on loopback: requests and answers, which function answers which path, and how a connection breaks."""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


PARTS = {
    "repo": r"(?P<repo>[\w.-]+/[\w.-]+)", "revision": "(?P<revision>[^/]+)", "path": "(?P<path>.+)",
    "blob": "(?P<blob>[0-9a-f]{64})", "part": r"(?P<part>\d+)",
}  # fmt: skip
ROUTES: list[tuple[re.Pattern[str], Callable[..., Answer]]] = []


@dataclass
class Request:
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
        changed: the answer is changed by this, in place of the cut.
    """

    pattern: str
    after: int = 0
    times: float = 1
    stall: float = 0
    status: int | None = None
    changed: Callable[[Answer], Answer] | None = None
    seen: Any = field(default_factory=itertools.count)

    def strikes(self, request: Request) -> bool:
        return bool(re.search(self.pattern, str(request))) and next(self.seen) < self.times


def route(pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """`"METHOD path"`, with the names of `PARTS` in braces."""

    def add(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((re.compile(pattern.format(**PARTS)), function))
        return function

    return add


def as_json(content: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    """All of a file, or what a broken download lacks."""
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    if not asked:
        return Answer(content, headers=headers)
    start, size = int(asked[1]), len(content)
    if start >= size:
        raise Refusal(416, "Range not satisfiable", **{"Content-Range": f"bytes */{size}"})
    return Answer(content[start:], 206, {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"})


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _serve(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        request = Request(self.command, url.path, parse_qs(url.query), self.headers)
        hub.requests.append(request)
        fault = next((f for f in hub.faults if f.strikes(request)), None)
        cut = fault if fault and fault.status is None and fault.changed is None else None
        length = int(self.headers.get("Content-Length") or 0)
        if cut and length:
            self.rfile.read(min(cut.after, length))
            return self._cut(cut)
        request.body = self.rfile.read(length)
        hub.watch(request)
        answer = Answer(status=fault.status) if fault and fault.status else self._answer(request)
        if fault and fault.changed:
            answer = fault.changed(answer)
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: cut.after] if cut else answer.body)
        return self._cut(cut) if cut else None

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _answer(self, request: Request) -> Answer:
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
