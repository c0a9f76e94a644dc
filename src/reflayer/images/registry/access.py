"""How a registry is to be spoken to: what a user says of credentials and certificates."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who one is to a registry; never shown.

    Attributes:
        user: the user's name; empty beside an identity token.
        password: or empty.
        identity_token: an OAuth 2 refresh token in place of the two, or empty.
        origin: where they are from, in words, for messages.
    """

    user: str = field(repr=False)
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    origin: str = "that were given"


@dataclass(frozen=True, slots=True)
class Access:
    """What may be said of the way to a registry.

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
