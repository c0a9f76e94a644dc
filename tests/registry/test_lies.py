"""Registries that lie: one clear line, and nothing of it is kept."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import ReflayerError
from tests.images.layouts import INDEX, LAYER, MANIFEST, sha256
from tests.registry.silly import Answer, Request, Silly
from tests.store.stores import BASE, MORE, assert_clean, layers_in, reflayer

HTML = {"Content-Type": "text/html"}
OTHER = {"Docker-Content-Digest": sha256(b"other")}
MANIFESTS, BLOBS = "/manifests/", "/blobs/"


def _claim(silly: Silly, **changes: object) -> None:
    """Have the manifest say something else of the layer."""
    media_type, data = silly.manifests["latest"]
    value = json.loads(data)
    value["layers"][0].update(changes)
    silly.document(value, media_type, "latest")


def _spoil_config(silly: Silly) -> None:
    for digest, data in silly.blobs.items():
        if data.startswith(b"{"):
            silly.blobs[digest] = b"{}"


def _compressed_anew(data: bytes) -> bytes:
    return data[:4] + b"\1" + data[5:]  # RFC 1952: MTIME


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MALFORMED = {  # and whether the same follows for ever
    "a chunk of negative length": Answer(raw=CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n"),
    "a chunk of length -1": Answer(raw=CHUNKED + b"-1\r\n", body=bytes(1 << 16), endless=True),
    "lengths of chunks": Answer(raw=CHUNKED, body=b"1\r\n \r\n" * 9999, endless=True),
    "trailers": Answer(raw=CHUNKED + b"0\r\n", body=b"A: b\r\n" * 9999, endless=True),
    "headers": Answer(raw=b"HTTP/1.1 200 OK\r\n", body=b"A: b\r\n" * 9999, endless=True),
    "a header": Answer(raw=b"HTTP/1.1 200 OK\r\nA: ", body=b"b" * 9999, endless=True),
    "provisional answers": Answer(raw=b"", body=b"HTTP/1.1 100 Go\r\n\r\n" * 999, endless=True),
    "a negative status": Answer(raw=b"HTTP/1.1 -1 OK\r\n\r\n"),
    "two lengths": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx"),
}
BOMB = gzip.compress(bytes(64 << 20), 9)

LIES: dict[str, tuple[Callable[[Silly, str], None], str]] = {
    "wrong digest": (
        lambda s, layer: s.always("GET", layer, Answer(body=bytes(len(s.blobs[layer])))),
        "another content|should be",
    ),
    "wrong digest, right content": (
        lambda s, layer: s.always("GET", layer, Answer(body=_compressed_anew(s.blobs[layer]))),
        "another content",
    ),
    "wrong digest of the config": (
        lambda s, _: _spoil_config(s),
        "another content",
    ),
    "wrong digest of the manifest": (
        lambda s, _: s.always(
            "GET", MANIFESTS, Answer(body=b"{}", headers={"Content-Type": MANIFEST, **OTHER})
        ),
        "another content",
    ),
    "short body": (
        lambda s, layer: s.always(
            "GET", layer, Answer(body=s.blobs[layer], cut=10, headers={"Retry-After": "0"})
        ),
        "the connection broke off",
    ),
    "short length": (
        lambda s, layer: s.always("GET", layer, Answer(body=s.blobs[layer][:-1])),
        "bytes as the blob .*, which should have",
    ),
    "long length": (
        lambda s, layer: s.always("GET", layer, Answer(body=s.blobs[layer] + b"x")),
        "bytes as the blob .*, which should have",
    ),
    "another size in the manifest": (
        lambda s, _: _claim(s, size=1 << 40),
        "bytes as the blob .*, which should have 1099511627776",
    ),
    "endless blob": (
        lambda s, layer: s.always("GET", layer, Answer(body=bytes(1 << 16), endless=True)),
        "has more than|another content|should be",
    ),
    "endless manifest": (
        lambda s, _: s.always("GET", MANIFESTS, Answer(body=b" " * (1 << 16), endless=True)),
        "more than 4194304 bytes",
    ),
    "a manifest of a hundred megabytes": (
        lambda s, _: s.always(
            "GET", MANIFESTS, Answer(cut=0, headers={"Content-Length": "104857600"})
        ),
        "answers with 104857600 bytes where 4194304 are the most",
    ),
    "an endless error": (
        lambda s, _: s.always("GET", MANIFESTS, Answer(404, body=bytes(1 << 16), endless=True)),
        "404 Not Found",
    ),
    "HTML for a manifest": (
        lambda s, _: s.always("GET", MANIFESTS, Answer(body=b"<html>", headers=HTML)),
        "media type text/html, which is no image's manifest",
    ),
    "HTML that claims to be a manifest": (
        lambda s, _: s.always(
            "GET", MANIFESTS, Answer(body=b"<html>", headers={"Content-Type": MANIFEST})
        ),
        "is not JSON",
    ),
    "an index that is a manifest": (
        lambda s, _: s.always(
            "GET",
            MANIFESTS,
            Answer(body=s.manifests["latest"][1], headers={"Content-Type": INDEX}),
        ),
        "it has 'config', too|says that it is",
    ),
    "a manifest that is cut short": (
        lambda s, _: s.always(
            "GET", MANIFESTS, Answer(body=b"{}  ", cut=2, headers={"Content-Type": MANIFEST})
        ),
        "the connection broke off: the answer ended too early",
    ),
    "a manifest of no media type": (
        lambda s, _: s.always("GET", MANIFESTS, Answer(body=b"{}")),
        "does not say of what media type it is",
    ),
    "a media type of a layer that is none": (
        lambda s, _: _claim(s, mediaType="application/x-\n+json"),
        r"of an artefact: application/x-\\n\+json",
    ),
    "a terminal's commands in an error": (
        lambda s, _: s.always(
            "GET",
            MANIFESTS,
            Answer(403, body=json.dumps({"errors": [{"message": "\x1b[2Jno\n"}]}).encode()),
        ),
        r"403 Forbidden: \\x1b\[2Jno\\n",
    ),
    "a redirect loop": (
        lambda s, _: s.always(
            "GET", MANIFESTS, Answer(307, headers={"Location": "/v2/x/manifests/again"})
        ),
        "redirects more than 8 times",
    ),
    "a redirect to what is no address": (
        lambda s, _: s.always("GET", MANIFESTS, Answer(302, headers={"Location": "http://[::1"})),
        r"localhost:\d+: gives an address that is none of HTTP",
    ),
    "a redirect to a host of a very long name": (
        lambda s, _: s.always(
            "GET", MANIFESTS, Answer(302, headers={"Location": f"http://{'x' * 60000}/"})
        ),
        r"localhost:\d+: gives an address that is none of HTTP",
    ),
    "a redirect to a file": (
        lambda s, _: s.always(
            "GET", MANIFESTS, Answer(302, headers={"Location": "file:///etc/passwd"})
        ),
        r"localhost:\d+: gives an address that is none of HTTP",
    ),
    "a redirect to what can be no host": (
        lambda s, _: s.always("GET", MANIFESTS, Answer(302, headers={"Location": "//a..b/"})),
        "there can be no such host",
    ),
    "a manifest that is small while it is compressed": (
        lambda s, _: s.always("GET", MANIFESTS, Answer(body=BOMB)),
        "more than 4194304 bytes",
    ),
    "a manifest that is compressed and damaged": (
        lambda s, _: s.always("GET", MANIFESTS, Answer(body=BOMB[:20] + BOMB[30:])),
        "is compressed, but damaged",
    ),
    "a blob that is not compressed on the way as it says": (
        lambda s, layer: s.always(
            "GET", layer, Answer(body=bytes(99), headers={"Content-Encoding": "gzip"})
        ),
        "is not compressed as it says",
    ),
    "a blob that is more than it says while it is compressed on the way": (
        lambda s, layer: s.always(
            "GET", layer, Answer(body=BOMB, headers={"Content-Encoding": "gzip"})
        ),
        "has more than",
    ),
    **{
        f"{what} for {part}": (
            lambda s, _, part=part, answer=answer: s.always("GET", part, answer),  # type: ignore[misc]
            "localhost:[0-9]+: its answer is not HTTP$",
        )
        for what, answer in MALFORMED.items()
        for part in (MANIFESTS, BLOBS)
    },
    "another part of a blob": (
        lambda s, layer: s.always(
            "GET", layer, Answer(206, body=b"x", headers={"Content-Range": "bytes 5-5/6"})
        ),
        "another part of a blob",
    ),
    "a damaged layer of the right digest": (
        lambda s, _: _damage(s),
        "is damaged|not a tar|malformed|ends",
    ),
}


def _damage(silly: Silly) -> None:
    media_type, data = silly.manifests["latest"]
    value = json.loads(data)
    value["layers"][0] = silly._blob(b"\x1f\x8b\x08 no gzip" * 100, value["layers"][0]["mediaType"])
    silly.document(value, media_type, "latest")


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_one_clear_line_and_nothing_is_kept(root: Path, silly: Silly, lie: str) -> None:
    layers = silly.image(BASE, MORE)
    tell, message = LIES[lie]
    tell(silly, layers[0])
    store = Store(root)
    start = time.monotonic()
    with pytest.raises(ReflayerError, match=message) as caught:
        store.pull(f"{silly.host}/x")
    assert time.monotonic() - start < 10
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert store.images() == []
    assert layers_in(root) == set()
    assert_clean(root)
    silly.handlers.clear()
    silly.blobs.clear()
    silly.image(BASE, MORE)
    store.pull(f"{silly.host}/x")
    assert_clean(root)


@pytest.mark.parametrize("also", [(), (MORE,)])
def test_other_layers_of_the_same_config_do_not_take_an_images_place(
    root: Path, silly: Silly, also: tuple[bytes, ...]
) -> None:
    (good,) = silly.image(BASE)
    store = Store(root)
    known = store.pull(f"{silly.host}/x")
    silly.image(BASE, *also, tag="evil")
    media_type, data = silly.manifests["evil"]
    value = json.loads(data)
    value["layers"][0] = silly._blob(gzip.compress(MORE), value["layers"][0]["mediaType"])
    silly.document(value, media_type, "evil")
    with pytest.raises(ReflayerError, match=r"its diff id is .*, but the config says"):
        store.pull(f"{silly.host}/x:evil")
    assert store.images() == [known]
    assert sha256((root / "content/blobs" / good.replace(":", "/")).read_bytes()) == good
    value["layers"][0] = silly._blob(gzip.compress(BASE, 9), f"{LAYER}+gzip")
    silly.document(value, media_type, "again")
    store.pull(f"{silly.host}/x:again")
    assert_clean(root)


@pytest.mark.parametrize("answer", ["", "HTTP/1.1 200 OK\r\n\r\n<html>", "\x15\x03\x01\x00\x02"])
def test_somebody_else_at_the_port_is_one_line(root: Path, answer: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = threading.Event()

        def serve() -> None:
            while not closed.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    connection.recv(1 << 16)
                    connection.sendall(answer.encode("latin-1"))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(ReflayerError) as caught:
                Store(root).pull(f"localhost:{server.getsockname()[1]}/x")
        finally:
            closed.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert str(caught.value).startswith("localhost:")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("localhost:1/x", "localhost:1: cannot be reached: Connection refused"),
        ("nowhere.invalid/x", "nowhere.invalid: there is no such host"),
    ],
)
def test_an_unreachable_registry_is_told_at_once(root: Path, name: str, message: str) -> None:
    done = reflayer(root, "pull", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (Answer(404), "missing", "x has no tag latest: 404 Not Found"),
        (
            Answer(401, headers={"WWW-Authenticate": 'Basic realm="r"'}),
            "denied",
            "x: not there, or",
        ),
        (
            Answer(403, body=b'{"errors": [{"code": "DENIED"}]}'),
            "denied",
            "x: the tag latest cannot be had: 403 Forbidden: DENIED: not there, or not for "
            "everybody: docker login or podman login keeps them",
        ),
        (Answer(429, headers={"Retry-After": "999"}), "registry", "cannot be had: 429 Too Many"),
        (Answer(501), "registry", "x: the tag latest cannot be had: 501 Not Implemented"),
        (Answer(503, headers={"Retry-After": "999"}), "registry", "cannot be had: 503 Service"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
@pytest.mark.usefixtures("no_credentials")
def test_a_refusal_is_a_line_and_a_code(
    root: Path, silly: Silly, answer: Answer, code: str, told: str
) -> None:
    silly.always("GET", MANIFESTS, answer)
    done = reflayer(root, "pull", "--json", f"{silly.host}/x")
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert (done.returncode, done.stdout, error["code"]) == (1, "", code)
    assert told in error["message"]


def test_a_missing_image_says_what_the_registry_says(root: Path, silly: Silly) -> None:
    with pytest.raises(ReflayerError, match="x has no tag none: 404 Not Found"):
        Store(root).pull(f"{silly.host}/x:none")
    assert len(silly.seen("GET", MANIFESTS)) == 1


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        (b'{"name": "x", "tags": ["latest", "1.0", "1.2", "1.20"]}', "; there are: 1.20, 1.0, 1.2"),
        (b'{"name": "x", "tags": null}', ""),
        (b'{"tags": [1, 2]}', ""),
        (b'{"tags": {"a": 1}', ""),
        (b"[" * 10_000, ""),
    ],
)
def test_a_missing_tag_tells_of_those_that_are_there(
    root: Path, silly: Silly, tags: bytes, told: str
) -> None:
    silly.image(BASE)
    silly.on("GET", "/tags/list", Answer(body=tags))
    done = reflayer(root, "pull", f"{silly.host}/x:1.2.0")
    assert done.returncode == 1
    _, _, after = done.stderr.partition("x has no tag 1.2.0: 404 Not Found")
    assert after.rstrip("\n").startswith(told)
    assert ("there are" in after) == bool(told)


def test_the_request_for_a_range_is_not_believed_blindly(root: Path, silly: Silly) -> None:
    """The rest of another blob is found by the digest of the whole."""
    (layer,) = silly.image(bytes(10240))
    data = silly.blobs[layer]
    silly.on("GET", layer, Answer(body=data, cut=20))

    def lie(request: Request) -> Answer | None:
        if layer in request.path and "range" in request.headers:
            told = {"Content-Range": f"bytes 20-{len(data) - 1}/{len(data)}"}
            return Answer(206, bytes(len(data) - 20), told)
        return None

    silly.handlers.append(lie)
    with pytest.raises(ReflayerError):
        Store(root).pull(f"{silly.host}/x")
    assert_clean(root)
