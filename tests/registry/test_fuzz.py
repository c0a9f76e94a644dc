"""A registry whose answers are spoiled at random: what comes of it is right, or one clear line."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import ReflayerError
from tests.registry.silly import Answer, Request, Silly
from tests.store.stores import BASE, MORE, assert_clean

STATUSES = (
    "100 101 103 199 200 201 202 204 206 226 301 302 304 307 308 400 401 403 404 405 406 409 "
)
STATUSES += "410 413 416 418 429 451 500 501 502 503 504 520 600 999"
DIGEST = "sha256:" + "0" * 64
HEADERS = {
    "Connection": ("close", "keep-alive", "upgrade", ""),
    "Content-Encoding": (
        "gzip",
        "deflate",
        "br",
        "identity",
        "aws-chunked",
        "gzip, gzip",
        "x" * 999,
    ),
    "Content-Length": ("0", "1", "-1", "1, 2", "1_0", "9" * 30, "9" * 5000, "0x10", "", "\xb2"),
    "Content-Range": ("bytes 0-0/1", "bytes 5-1/9", "bytes */9", "bytes 0-9/*", "lines 1-2/3", "-"),
    "Content-Type": ("text/html", "application/json; charset=latin-1", "", "/", "\xff"),
    "Docker-Content-Digest": (DIGEST, "sha256:0", "md5:" + "0" * 32, "", "/../"),
    "Link": ("</v2/>; rel=next", "<", "\x01"),
    "Location": (
        "",
        "/",
        "//",
        "//a..b/",
        "http://[::1",
        "http://localhost:1/",
        "ftp://localhost/",
        "?",
    ),
    "OCI-Chunk-Min-Length": ("-1", "9" * 19, "x", "1"),
    "Range": ("0-0", "0-", "5-1", "0-999999999", "bytes=0-3", "x"),
    "Retry-After": ("0", "-1", "1e9", "nan", "soon", "Mon, 01 Jan 0001 00:00:00 -0000"),
    "Transfer-Encoding": ("chunked", "gzip, chunked", "identity", "Chunked"),
    "WWW-Authenticate": (
        "Basic",
        "Bearer",
        'Bearer realm="/"',
        'Bearer realm="http://localhost:1/"',
        '"',
    ),
}
CHUNKS = (
    b"-1",
    b"-5",
    b"+1",
    b"zz",
    b"",
    b"0",
    b"f" * 20,
    b"1;" + b"x" * 70000,
    b" 5",
    b"5\r\nabc",
)


def spoil(answer: Answer, rng: random.Random) -> Answer:
    """An answer as bytes, with something wrong in it."""
    status, headers, body = answer.status, dict(answer.headers), answer.body
    headers.setdefault("Content-Length", str(len(body)))
    for _ in range(rng.randint(1, 3)):
        match rng.randrange(8):
            case 0:
                status = int(rng.choice(STATUSES.split()))
            case 1 | 2:
                name = rng.choice(list(HEADERS))
                headers[name] = rng.choice(HEADERS[name])
            case 3:
                body = body[: rng.randint(0, len(body))]
            case 4 if body:
                place = rng.randrange(len(body))
                body = body[:place] + rng.randbytes(rng.randint(0, 4)) + body[place + 1 :]
            case 5:
                body = rng.choice(
                    (gzip.compress(body), body * 2, b"[" * 9999, b"\x1f\x8b\x08" + body)
                )
                headers["Content-Length"] = str(len(body))
            case 6:
                size = rng.choice((*CHUNKS, b"%x" % len(body)))
                body = size + b"\r\n" + body + b"\r\n0\r\n\r\n"
                headers["Transfer-Encoding"] = "chunked"
            case 7:
                headers.update({f"X-{number}": "y" * 99 for number in range(rng.choice((50, 200)))})
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if rng.random() < 0.1:
        head = head[: rng.randint(0, len(head))]
    if rng.random() < 0.1 and head and "Location" not in headers:
        place = rng.randrange(len(head))
        head = head[:place] + rng.randbytes(1) + head[place + 1 :]
    return Answer(raw=head + body)


def works(action: Callable[[], object]) -> bool:
    """Whether it did what it should; otherwise one clear line says soon why not."""
    start = time.monotonic()
    message = "x"
    try:
        action()
    except ReflayerError as error:
        message = str(error)
        return False
    finally:
        assert message.isprintable()
        assert 0 < len(message) < 600
        assert time.monotonic() - start < 60
    return True


@pytest.mark.parametrize("seed", range(40))
def test_spoiled_answers_are_survived_or_told(
    root: Path, silly: Silly, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("reflayer.images.registry.retry._LONGEST", 0.1)
    monkeypatch.setattr("reflayer.images.registry.destination._CHUNK", 4096)
    rng = random.Random(seed)
    silly.image(BASE, MORE)
    store, other = Store(root), Store(root.parent / "other")
    known = other.pull(f"{silly.host}/x")
    often = rng.choice((0.1, 0.3, 1.0))

    def answer(request: Request) -> Answer | None:
        usual = silly.usual(request)
        return spoil(usual, rng) if rng.random() < often else usual

    silly.handlers.append(answer)
    if works(lambda: store.pull(f"{silly.host}/x")):
        assert store.images() == [known]
    else:
        assert store.images() == []
    assert_clean(root)
    works(lambda: other.push(f"{silly.host}/x", f"{silly.host}/y:1"))
    silly.handlers.clear()
    assert store.pull(f"{silly.host}/x") == known
    assert_clean(root)
