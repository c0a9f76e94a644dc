"""A plain HTTP client of the plugin, which sends whatever it is told to."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable
from pathlib import Path


class Connection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("plugin", timeout=60)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class Client:
    """Each request in a connection of its own."""

    def __init__(self, path: Path) -> None:
        """Of the plugin at the socket ``path``."""
        self.path = path

    def post(self, name: str, body: bytes | Iterable[bytes] = b"") -> tuple[int, bytes]:
        """Status and body of the answer to ``POST /NAME``."""
        connection = Connection(self.path)
        connection.request("POST", f"/{name}", body)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, name: str, **members: object) -> dict[str, object]:
        """The JSON that answers ``GraphDriver.NAME`` with these members."""
        status, body = self.post(f"GraphDriver.{name}", json.dumps(members).encode())
        assert status == 200, body
        answer = json.loads(body)
        assert isinstance(answer, dict)
        return answer

    def call(self, name: str, **members: object) -> dict[str, object]:
        """The same, where it has to be no error."""
        answer = self.ask(name, **members)
        assert not answer.get("Err"), answer
        return answer

    def error(self, name: str, **members: object) -> str:
        """The error that answers it."""
        return str(self.ask(name, **members)["Err"])

    def layer(self, id: str) -> Path:
        """Where a layer is."""
        path = Path(str(self.call("Get", ID=id)["Dir"]))
        self.call("Put", ID=id)
        return path

    def diff(self, id: str, parent: str = "") -> bytes:
        """A layer's archive."""
        body = json.dumps({"ID": id, "Parent": parent}).encode()
        status, archive = self.post("GraphDriver.Diff", body)
        assert status == 200, archive
        return archive

    def apply(self, id: str, archive: bytes | Iterable[bytes], parent: str = "") -> object:
        """What answers an archive for a layer: its size or its error."""
        body = [archive] if isinstance(archive, bytes) else archive
        status, answer = self.post(f"GraphDriver.ApplyDiff?id={id}&parent={parent}", iter(body))
        assert status == 200, answer
        told = json.loads(answer)
        return told.get("Err") or told["Size"]
