"""TLS with a registry: its certificates, ours, and whether it speaks TLS at all.

Docker's "Verify repository client with certificates"; containers-certs.d(5).
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress

from reflayer.errors import RegistryError, failing, printable
from reflayer.xdg import in_home

_FOLDERS = ("/etc/containers/certs.d", "/etc/docker/certs.d")
_ABSENT = (FileNotFoundError, NotADirectoryError, PermissionError)
_CONNECTING = 15  # seconds
_NO_TLS = frozenset(  # what OpenSSL calls an answer that is none of TLS
    ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
)


def tls_context(host: str, *, verify: bool, cert_dir: str | None = None) -> ssl.SSLContext:
    """What is to be trusted of ``host``.

    The system's authorities, or those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``; and each
    ``*.crt`` of ``cert_dir``, or else of the folders that Docker and Podman have for ``host``. A
    ``X.cert`` there, with its ``X.key``, is what we show of ourselves. One of those folders that we
    may not read, such as in the home of another user, counts as none, as for skopeo.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_dir is not None:
        _load(context, cert_dir, needed=True)
    else:
        for folder in filter(None, (in_home(".config/containers/certs.d"), *_FOLDERS)):
            _load(context, os.path.join(folder, host), needed=False)
    return context


def _load(context: ssl.SSLContext, folder: str, *, needed: bool) -> None:
    for name in _names(folder, needed):
        path = os.path.join(folder, name)
        stem, extension = os.path.splitext(path)
        with failing(path, "open"):
            try:
                if extension == ".crt":
                    context.load_verify_locations(path)
                elif extension == ".cert":
                    context.load_cert_chain(path, f"{stem}.key")
            except ssl.SSLError as error:
                reason = error.reason or error.strerror or "unreadable"
                raise RegistryError(f"{printable(path)} is no certificate: {reason}") from error
            except FileNotFoundError:
                missing = f"{stem}.key is missing"
                raise RegistryError(f"{printable(path)} has no key: {missing}") from None


def _names(folder: str, needed: bool) -> list[str]:
    with failing(folder, "open"), suppress(*(() if needed else _ABSENT)):
        return sorted(os.listdir(folder))
    return []


def is_no_tls(error: ssl.SSLError) -> bool:
    """Whether the other side of a handshake does not speak TLS."""
    return error.reason in _NO_TLS


def speaks_otherwise(host: str, port: int) -> bool:
    """Whether a server is there that answers a handshake, but not by TLS.

    No certificate is looked at and nothing is sent: this is sooner done than reading all of the
    system's authorities, which a true request needs.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), port), _CONNECTING) as connection:
            context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return is_no_tls(error)
    except OSError:  # the true request tells of it
        return False
    return False
