"""The commands that speak to registries: ``pull``, ``push``; certificates and credentials."""

from __future__ import annotations

from reflayer.cli.arguments import (
    JSON,
    PLATFORM,
    any_path,
    group,
    image_name,
    open_store,
    option,
    ownership,
    refusal,
    takes,
    telling_of_ownership,
)
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import print_json, remark
from reflayer.cli.progress_bars import bars
from reflayer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from reflayer.images.registry import Access, Credentials

_LONGEST = 64 << 10  # characters of a password

_HELP = """\
Credentials are those that docker login, podman login or skopeo login keep, credential helpers
included; certificates are looked for in /etc/docker/certs.d/HOST and /etc/containers/certs.d/HOST.
"""


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise refusal(f"{text!r} is not true or false: write --tls-verify=true")
    return text.lower() in ("true", "1")


ACCESS_TITLE = "registries"
ACCESS = group(
    ACCESS_TITLE,
    _HELP,
    option(
        "--tls-verify BOOL",
        "=false: take any certificate, and plain HTTP where there is no TLS; by default "
        "that is so for nobody, but localhost may speak plain HTTP",
        nargs="?",
        const=True,
        type=_boolean,
    ),
    option(
        "--creds USER[:PASSWORD]",
        "in place of those that are looked for; others can see a password that is given here, "
        "without one it is asked for or read from standard input",
    ),
    option("--authfile FILE", "look for credentials in this file, and nowhere else", type=any_path),
    option(
        "--cert-dir DIR",
        "trust the *.crt in it, show *.cert with *.key of the same name",
        type=any_path,
    ),
)


@takes(image_name("a name, with docker:// before it or not"), PLATFORM, ACCESS, ownership(), JSON)
def pull(arguments: Namespace) -> int:
    """Fetch an image as its registry has it now, unpack it, and print its id. So reflayer
    create needs only to clone it.

      reflayer pull alpine
      reflayer pull --platform linux/arm64 quay.io/fedora/fedora:41
      reflayer pull localhost:5000/app@sha256:...

    Layers come side by side and are unpacked while they come. A broken connection is taken
    up where it broke off, and what a failed or killed pull has fetched is used by the next
    within a day. Nothing is recorded before all of it is there, its digests checked.
    """
    store = open_store(arguments)
    access = access_of(arguments)
    with telling_of_ownership(lambda: store.ownership), bars() as progress:
        image = store.pull(
            arguments.image,
            platform=arguments.platform,
            access=access,
            progress=progress,
            warn=remark,
        )
        ignore_signals()
    if arguments.json:
        from reflayer.cli.images import image_fields

        print_json(image_fields(image))
    else:
        print(image.id)
    return 0


@takes(
    image_name("a name or id (reflayer images)"),
    option("destination DEST", "where to: [docker://]HOST/REPOSITORY[:TAG]"),
    ACCESS,
    ownership(),
    JSON,
)
def push(arguments: Namespace) -> int:
    """Send an image to a registry, and print the digest of its manifest there.

      reflayer push app registry.example.com/team/app:1.2
      reflayer push app localhost:5000/app

    Layers that came compressed go out as the same bytes. What the registry has already is
    not sent, and what it has in a repository that the image came from is mounted there.
    """
    access = access_of(arguments)
    with bars() as progress:
        there = open_store(arguments).push(
            arguments.image, arguments.destination, access=access, progress=progress, warn=remark
        )
        ignore_signals()
    if arguments.json:
        print_json({"name": str(there), "digest": there.digest})
    else:
        print(there.digest)
    return 0


def access_of(arguments: Namespace) -> Access | None:
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
