"""A user's credentials for a registry: given, or those that Docker, Podman and skopeo keep.

containers-auth.json(5); the section "Credential stores" of ``docker login``; the protocol of
docker-credential-helpers.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from functools import partial

from reflayer import xdg
from reflayer.errors import OperationError, ReflayerError, RegistryError, printable
from reflayer.images.model.document import Document
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    Result = TypeVar("Result")

_LARGEST = 4 << 20  # bytes
_HUB = "docker.io"
_HUB_SERVER = "https://index.docker.io/v1/"  # what Docker Hub is called in files and helpers
_HUB_HOSTS = frozenset((_HUB, "index.docker.io", "registry-1.docker.io"))
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_NONE = "credentials not found in native keychain"  # the protocol's words; many have others
_TOKEN_USER = "<token>"  # the user whose password is an identity token
_PATIENCE = 120  # seconds: some ask the user


@record
class Credentials:
    """A user's name and secret at a registry; no ``repr`` shows them.

    Attributes:
        user: the user's name; empty beside an identity token.
        password: or empty.
        identity_token: an OAuth 2 refresh token in place of the two, or empty.
        origin: where they are from, in words, for messages.
    """

    user: str
    password: str
    identity_token: str = ""
    origin: str = "that were given"

    def __repr__(self) -> str:
        return f"Credentials(origin={self.origin!r})"


@record
class Access:
    """How a registry is to be spoken to.

    Attributes:
        tls_verify: True: nothing but TLS with a certificate that is trusted. False: any
            certificate, and plain HTTP where there is no TLS. None: True, but this machine's own
            addresses may speak plain HTTP.
        credentials: in place of those that are looked for.
        auth_file: where alone credentials are looked for.
        cert_dir: where certificates are looked for first, as in ``/etc/docker/certs.d/HOST``.
    """

    tls_verify: bool | None = None
    credentials: Credentials | None = None
    auth_file: str | None = None
    cert_dir: str | None = None


def find_credentials(domain: str, path: str, auth_file: str | None = None) -> Credentials | None:
    """The credentials for the repository ``path`` at ``domain``; None where there are none.

    The first file that has some is taken; in it, those for the longest beginning of the name. A
    file or a credential helper that fails is an error only where no other one has any. With
    ``auth_file``, which has to be there, nothing else is looked at.
    """
    if auth_file is None:
        auth_file = os.environ.get("REGISTRY_AUTH_FILE") or None
    failures: list[ReflayerError] = []

    def tried(action: Callable[[], Result | None]) -> Result | None:
        try:
            return action()
        except ReflayerError as error:
            failures.append(error)
            return None

    for name in _usual_files() if auth_file is None else (auth_file,):
        document = tried(partial(_read, name, needed=auth_file is not None))
        if document is None:
            continue
        found = tried(partial(_from_helper, document, domain))
        found = found or tried(partial(_from_auths, document, domain, path))
        if found is not None:
            return found
    if failures:
        raise failures[0]
    return None


def _usual_files() -> Iterator[str]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        yield os.path.join(runtime, "containers/auth.json")
    else:
        from reflayer.linux.user_namespace import outer_user

        yield f"/run/containers/{outer_user()}/auth.json"
    config = xdg.folder("XDG_CONFIG_HOME", ".config")
    if config is not None:
        yield os.path.join(config, "containers/auth.json")
    docker = os.environ.get("DOCKER_CONFIG") or xdg.in_home(".docker")
    if docker is not None:
        yield os.path.join(docker, "config.json")


def _read(name: str, needed: bool) -> Document | None:
    try:
        with open(name, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        if not needed and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return None
        raise OperationError.from_os_error(error, os.fsencode(name), "open") from error
    if len(data) > _LARGEST:
        raise RegistryError(f"{printable(name)} has more than {_LARGEST} bytes")
    return Document.parse(data, printable(name)) if data.strip() else None


def _from_helper(document: Document, domain: str) -> Credentials | None:
    helpers = document.child("credHelpers")
    server = _HUB_SERVER if domain == _HUB else domain
    named = [key for key in (domain, server) if helpers and key in helpers.fields]
    helper = helpers.string(named[0]) if helpers and named else document.string("credsStore")
    return _ask_helper(helper, server) if helper else None


def _from_auths(document: Document, domain: str, path: str) -> Credentials | None:
    auths = document.child("auths")
    if auths is None:
        return None
    entries = {_plain(key): key for key in sorted(auths.fields, reverse=True)}
    for name in _beginnings(domain, path):
        entry = auths.child(entries[name]) if name in entries else None
        if entry is not None and (found := _credentials(entry)):
            return found
    return None


def _beginnings(domain: str, path: str) -> Iterator[str]:
    """``domain/a/b``, ``domain/a``, ``domain``."""
    while path:
        yield f"{domain}/{path}"
        path = path.rpartition("/")[0]
    yield domain


def _plain(key: str) -> str:
    """A key without what older versions of Docker put around the host."""
    scheme, _, rest = key.rpartition("://")
    host, slash, path = rest.rstrip("/").partition("/")
    host = _HUB if host in _HUB_HOSTS else host
    return host if scheme or path in ("v1", "v2") else f"{host}{slash}{path}"


def _credentials(entry: Document) -> Credentials | None:
    token = entry.string("identitytoken")
    user, password = entry.string("username"), entry.string("password")
    text = "".join(entry.string("auth").split())  # the program base64 breaks lines
    if text:
        try:
            decoded = base64.b64decode(text, validate=True).decode(errors="surrogateescape")
        except ValueError:
            raise RegistryError(f"{entry.what} has an 'auth' that is not base64") from None
        user, colon, password = decoded.partition(":")
        if not colon:
            raise RegistryError(f"{entry.what} has an 'auth' that is not USER:PASSWORD")
        password = password.rstrip("\0")  # as Docker does
    if not token and not user:
        return None
    return Credentials(user, password, token, f"from {entry.what}")


def _ask_helper(name: str, server: str) -> Credentials | None:
    # What it printed may be secret, and is told in no error.
    if not _NAME.fullmatch(name):
        raise RegistryError(f"{printable(name)!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise RegistryError(f"{program} has not answered within {_PATIENCE} seconds") from None
    except OSError as error:
        raise RegistryError(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode:
        if _NONE in done.stdout.decode(errors="replace"):
            return None
        raise RegistryError(f"{program} failed for {server} with the status {done.returncode}")
    if not done.stdout.strip():
        return None
    answer = Document.parse(done.stdout, f"the answer of {program}")
    user, secret = answer.string("Username"), answer.string("Secret")
    if not secret:
        return None
    names = ("", "", secret) if user == _TOKEN_USER else (user, secret, "")
    return Credentials(*names, f"from {program}")
