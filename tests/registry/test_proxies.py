"""Proxies: whom they are asked for, and how; HTTP's, and those of SOCKS (RFC 1928, 1929)."""

from __future__ import annotations

import socketserver
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from socket import SHUT_WR, create_connection, socket
from urllib.parse import quote, urlsplit

import pytest

from reflayer import Store
from reflayer.errors import ReflayerError
from reflayer.images.registry import Access
from reflayer.images.registry.transport import proxy_for
from tests.registry.silly import Silly
from tests.store.stores import BASE


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy for one server, whatever is asked for.

    Attributes:
        asked: what was, with its port.
    """

    def __init__(self, server: Silly, secret: tuple[str, str] | None) -> None:
        self.asked: set[str] = set()
        self.target = ("localhost", int(server.host.rpartition(":")[2]))
        self.secret = secret
        super().__init__(("127.0.0.1", 0), Client)

    def handle_error(self, *_: object) -> None:
        """A client that breaks off is meant."""


class Client(socketserver.StreamRequestHandler):
    """One that asks, by whatever protocol its first byte tells."""

    server: Proxy
    rbufsize = 0

    def handle(self) -> None:
        """Let it speak to the server."""
        first = self.rfile.read(1)
        ask = {b"\4": self._socks_4, b"\5": self._socks_5}.get(first, lambda: self._http(first))
        name, ahead = ask()
        self.server.asked.add(name)
        with create_connection(self.server.target) as server:
            server.sendall(ahead)
            back = threading.Thread(target=pump, args=(server, self.request))
            back.start()
            pump(self.request, server)
            back.join()

    def _socks_4(self) -> tuple[str, bytes]:
        port = int.from_bytes(self.rfile.read(7)[1:3], "big")
        assert (until(self.rfile, b"\0") == b"") == (self.server.secret is None)
        name = until(self.rfile, b"\0").decode()
        self.wfile.write(b"\0\x5a" + bytes(6))
        return f"{name}:{port}", b""

    def _socks_5(self) -> tuple[str, bytes]:
        self.rfile.read(self.rfile.read(1)[0])
        if self.server.secret is None:
            self.wfile.write(b"\5\0")
        else:
            self.wfile.write(b"\5\2")
            self.rfile.read(1)
            given = tuple(self.rfile.read(self.rfile.read(1)[0]).decode() for _ in "ab")
            self.wfile.write(b"\1\0" if given == self.server.secret else b"\1\1")
        assert self.rfile.read(4) == b"\5\1\0\3", "a name is for the proxy to resolve"
        name = self.rfile.read(self.rfile.read(1)[0]).decode()
        port = int.from_bytes(self.rfile.read(2), "big")
        self.wfile.write(b"\5\0\0\1" + bytes(6))
        return f"{name}:{port}", b""

    def _http(self, first: bytes) -> tuple[str, bytes]:
        head = first + until(self.rfile, b"\r\n\r\n")
        if self.server.secret is not None:
            secret = b64encode(":".join(self.server.secret).encode())
            assert b"Proxy-Authorization: Basic " + secret in head
        target = head.split()[1].decode()
        if not head.startswith(b"CONNECT "):
            url = urlsplit(target)
            return f"{url.hostname}:{url.port or 80}", head + b"\r\n\r\n"
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        return target, b""


def until(file: BufferedIOBase, end: bytes) -> bytes:
    """What comes before ``end``, which is read, too."""
    data = b""
    while not data.endswith(end):
        data += file.read(1) or end
    return data.removesuffix(end)


def pump(source: socket, target: socket) -> None:
    """Pass on what comes until no more does."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(SHUT_WR)


@contextmanager
def proxying(server: Silly, secret: tuple[str, str] | None = None) -> Iterator[Proxy]:
    """A proxy at a port of its own."""
    with Proxy(server, secret) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


@pytest.mark.parametrize("secret", [None, ("ada", "p@ss:w\u00f6rd")])
@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h", "socks4a"])
def test_a_proxy_is_asked_for_the_registry_by_its_name(
    root: Path,
    silly: Silly,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    secret: tuple[str, str] | None,
) -> None:
    silly.image(BASE)
    with proxying(silly, secret) as proxy:
        user = f"{quote(secret[0])}:{quote(secret[1])}@" if secret else ""
        for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, f"{kind}://{user}127.0.0.1:{proxy.server_address[1]}")
        Store(root).pull("registry.example.com:80/x", access=Access(tls_verify=False))
        assert proxy.asked == {"registry.example.com:80"}


def test_a_socks_proxy_that_lets_nobody_in_is_one_line(
    root: Path, silly: Silly, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxying(silly, ("ada", "right")) as proxy:
        place = f"127.0.0.1:{proxy.server_address[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"socks5://ada:hidden@{place}")
        with pytest.raises(ReflayerError, match="the proxy cannot be used: SOCKS5 auth") as caught:
            Store(root).pull("registry.example.com/x")
    assert "hidden" not in str(caught.value)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(ReflayerError, match="the proxy cannot be used: Connection refused"):
        Store(root).pull("registry.example.com/x")


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("*", "example.com", 443),
        ("*.example.com", "a.example.com", 443),
        (".example.com", "a.example.com", 443),
        ("example.com:5000", "example.com", 5000),
        ("10.0.0.0/8", "10.1.2.3", 5000),
        ("10.1.2.3:5000", "10.1.2.3", 5000),
        ("2001:db8::/32", "[2001:db8::1]", 5000),
        ("2001:db8::1", "[2001:db8::1]", 443),
        ("[2001:db8::1]:5000", "[2001:db8::1]", 5000),
    ],
)
def test_who_is_asked_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, port: int
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.test")
    monkeypatch.setenv("NO_PROXY", f"x.test, {no_proxy}")
    assert proxy_for("https", host, port) is None
    assert no_proxy == "*" or proxy_for("https", "example.net", port) == "socks5://proxy.test"


@pytest.mark.parametrize(
    ("host", "proxy"),
    [
        ("example.com", "http://proxy.test:3128"),
        ("none.example.org", None),
        ("example.org", None),
        ("10.1.2.3", None),
        ("11.1.2.3", "http://proxy.test:3128"),
        ("localhost", None),
    ],
)
def test_proxies_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, host: str, proxy: str | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "example.org, 10.0.0.0/8")
    assert proxy_for("https", host, 443) == proxy


def test_a_proxys_password_is_in_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hidden@127.0.0.1:1")
    with pytest.raises(
        ReflayerError, match=r"the proxy cannot be used: Connection refused"
    ) as caught:
        Store(root).pull("registry.example.com/x")
    assert "hidden" not in str(caught.value)
