"""What the commands that speak to registries take: certificates and credentials."""

from __future__ import annotations

import argparse

from reflayer.cli.arguments import path
from reflayer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.registry import Access, Credentials

HELP = """\
Credentials are those that docker login, podman login or skopeo login keep, credential helpers
included; certificates are looked for in /etc/docker/certs.d/HOST and /etc/containers/certs.d/HOST.
"""


def add_access(parser: argparse.ArgumentParser) -> None:
    """Let a command take how a registry is to be spoken to."""
    group = parser.add_argument_group("registries")
    group.add_argument(
        "--tls-verify",
        metavar="BOOL",
        nargs="?",
        const=True,
        type=_boolean,
        help="=false: take any certificate, and plain HTTP where there is no TLS; by default "
        "that is so for nobody, but localhost may speak plain HTTP",
    )
    group.add_argument(
        "--creds",
        metavar="USER[:PASSWORD]",
        help="in place of those that are looked for; others can see a password that is given here, "
        "without one it is asked for or read from standard input",
    )
    group.add_argument(
        "--authfile",
        metavar="FILE",
        type=path,
        help="look for credentials in this file, and nowhere else",
    )
    group.add_argument(
        "--cert-dir",
        metavar="DIR",
        type=path,
        help="trust the *.crt in it, show *.cert with *.key of the same name",
    )


def access_of(arguments: argparse.Namespace) -> Access | None:
    """What the command line says; None where it says nothing."""
    said = (arguments.tls_verify, arguments.creds, arguments.authfile, arguments.cert_dir)
    if said == (None, None, None, None):
        return None
    from reflayer.images.registry import Access

    return Access(
        tls_verify=arguments.tls_verify,
        credentials=None if arguments.creds is None else _credentials(arguments.creds),
        auth_file=arguments.authfile,
        cert_dir=arguments.cert_dir,
    )


def _credentials(text: str) -> Credentials:
    import sys

    from reflayer.images.registry import Credentials

    user, colon, password = text.partition(":")
    if not user:
        raise UsageError("--creds has no user: give USER or USER:PASSWORD")
    if not colon:
        if sys.stdin.isatty():
            from getpass import getpass

            password = getpass(f"Password of {user}: ")
        else:
            password = sys.stdin.readline(_LONGEST).rstrip("\r\n")
    return Credentials(user, password, origin="of --creds")


_LONGEST = 64 << 10  # characters


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false: write --tls-verify=true")
    return text.lower() in ("true", "1")
