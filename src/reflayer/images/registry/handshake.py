"""Whether a server speaks TLS, found out without any certificate."""

from __future__ import annotations

import socket
import ssl

_TIMEOUT = 15  # seconds
_NO_TLS = frozenset(  # what OpenSSL calls an answer that is none of TLS
    ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
)


def is_no_tls(error: ssl.SSLError) -> bool:
    """Whether a handshake failed since the other side does not speak TLS."""
    return error.reason in _NO_TLS


def speaks_otherwise(host: str, port: int) -> bool:
    """Whether a server is there that answers a handshake, but not by TLS.

    Nobody is trusted and nothing is sent to it. This is sooner done than reading all certificates
    of the system's authorities, which whoever asks in earnest has to.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), port), _TIMEOUT) as connection:
            context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return is_no_tls(error)
    except OSError:  # whoever asks in earnest tells it
        return False
    return False
