"""A registry that does as it is told: lies, breaks off, redirects, asks for tokens."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.images.layouts import CONFIG, LAYER, MANIFEST, config, sha256


@dataclass(frozen=True)
class Request:
    """One that came in."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """One that goes out.

    Attributes:
        cut: bytes of the body after which the connection is cut, though all were promised.
        endless: whether more of the same follows, without a length.
        raw: what is sent in place of a status and headers.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    endless: bool = False
    raw: bytes | None = None


Handler = Callable[[Request], "Answer | None"]


class Silly:
    """A server's images, and what it does instead of giving them.

    Attributes:
        host: its name and port.
        requests: all that came in.
        handlers: are asked first, in order; the first answer counts.
        hasty: what it answers to requests of a method before it has read their bodies, whereupon
            it ends the connection.
        pause: seconds that it does nothing before it reads a body of more than a mebibyte.
        blobs, manifests: what it has, by digest or tag.
        taken: blobs that were sent to it, by digest.
    """

    def __init__(self) -> None:
        self.host = ""
        self.requests: list[Request] = []
        self.handlers: list[Handler] = []
        self.hasty: dict[str, Answer] = {}
        self.pause = 0.0
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.taken: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}

    def image(self, *plain: bytes, tag: str = "latest") -> list[str]:
        """Have an image of these layers, compressed by gzip; return the layers' digests."""
        layers = [gzip.compress(data, 1, mtime=0) for data in plain]
        made = config(*plain)
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(made, CONFIG),
            "layers": [self._blob(data, f"{LAYER}+gzip") for data in layers],
        }
        self.document(value, MANIFEST, tag)
        return [sha256(data) for data in layers]

    def document(self, value: object, media_type: str, tag: str) -> dict[str, object]:
        """Have a manifest or index; return its descriptor."""
        data = json.dumps(value).encode()
        self.manifests[tag] = self.manifests[sha256(data)] = (media_type, data)
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def on(self, method: str, part: str, *answers: Answer) -> None:
        """Answer requests with ``part`` in their path by these in turn, then as usual."""
        left = list(answers)

        def handle(request: Request) -> Answer | None:
            wanted = request.method == method and part in request.path
            return left.pop(0) if wanted and left else None

        self.handlers.append(handle)

    def always(self, method: str, part: str, answer: Answer) -> None:
        """Answer requests with ``part`` in their path by this."""
        self.handlers.append(
            lambda request: (
                answer if (request.method, part in request.path) == (method, True) else None
            )
        )

    def seen(self, method: str, part: str) -> list[Request]:
        """The requests of this kind so far."""
        return [one for one in self.requests if one.method == method and part in one.path]

    def answer(self, request: Request) -> Answer:
        """What it answers."""
        self.requests.append(request)
        for handler in list(self.handlers):
            answer = handler(request)
            if answer is not None:
                return answer
        return self.usual(request)

    def usual(self, request: Request) -> Answer:
        """What it answers if nobody tells it otherwise."""
        name = request.path.rpartition("/")[2]
        if request.path == "/v2/":
            return Answer(body=b"{}")
        if "/blobs/uploads/" in request.path:
            return self._upload(request, name)
        if "/blobs/" in request.path:
            data = self.blobs.get(name, self.taken.get(name))
            return Answer(404) if data is None else part_of(data, request)
        if "/manifests/" in request.path:
            if request.method == "PUT":
                self.manifests[name] = (request.headers["content-type"], request.body)
                return Answer(201)
            if name in self.manifests:
                media_type, data = self.manifests[name]
                return Answer(body=data, headers={"Content-Type": media_type})
        return Answer(404)

    def _blob(self, data: bytes, media_type: str) -> dict[str, object]:
        self.blobs[sha256(data)] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def _upload(self, request: Request, name: str) -> Answer:
        if request.method == "POST":
            name = str(len(self.uploads))
            self.uploads[name] = b""
        elif request.method != "GET":
            self.uploads[name] += request.body
        place = {"Location": f"/v2/x/blobs/uploads/{name}?state=1"}
        if request.method == "PUT":
            digest = request.query.partition("digest=")[2].replace("%3A", ":")
            if sha256(self.uploads[name]) != digest:
                return Answer(400)
            self.taken[digest] = self.uploads[name]
            return Answer(201)
        there = f"0-{max(0, len(self.uploads[name]) - 1)}"
        return Answer(204 if request.method == "GET" else 202, headers={**place, "Range": there})


def part_of(data: bytes, request: Request) -> Answer:
    """What a server that knows of ranges answers."""
    asked = request.headers.get("range")
    if asked is None:
        return Answer(body=data)
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    told = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
    return Answer(206, data[start:], told)


@contextmanager
def serving(silly: Silly, context: ssl.SSLContext | None = None) -> Iterator[Silly]:
    """Serve it at a port of its own, by TLS where there is a context."""

    class Handling(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, ssl.SSLError):
                self.close_connection = True

        def _any(self) -> None:
            if self.command in silly.hasty:
                self._send(silly.hasty[self.command])
                self.close_connection = True
                return
            length = int(self.headers.get("Content-Length", 0))
            if length > 1 << 20:
                time.sleep(silly.pause)
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, url.path, url.query, headers, self.rfile.read(length))
            self._send(silly.answer(request))

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _any  # noqa: N815

        def _send(self, answer: Answer) -> None:
            if answer.raw is not None:
                self.wfile.write(answer.raw)
                self.close_connection = True
                while answer.endless:
                    self.wfile.write(answer.body)
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.endless:
                self.send_header("Connection", "close")
                self.end_headers()
                while True:
                    self.wfile.write(answer.body)
            if "Content-Length" not in answer.headers and answer.status != 204:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.cut])
            if answer.cut is not None:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that breaks off is meant

    server = Server(("127.0.0.1", 0), Handling)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    silly.host = f"localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield silly
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()
