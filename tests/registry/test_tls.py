"""TLS: whose certificate is trusted and who may do without."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from reflayer import Store
from reflayer.errors import ReflayerError
from reflayer.images.registry import Access
from reflayer.images.registry.tls import tls_context
from reflayer.images.registry.transport import is_loopback
from tests.file_systems import require_root
from tests.registry.registries import Registry, running
from tests.registry.silly import Answer, Silly, serving
from tests.store.stores import BASE, image, reflayer


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Path:
    """A folder as below ``/etc/docker/certs.d``: the authority's, and one of a client."""
    folder = tmp_path_factory.mktemp("certificates")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    client = authority.issue_cert("client.example.com")
    client.private_key_pem.write_to_path(folder / "client.key")
    client.cert_chain_pems[0].write_to_path(folder / "client.cert")
    return folder


@pytest.fixture(scope="session")
def tls_registry(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA, certificates: Path
) -> Iterator[Registry]:
    """A registry by TLS that wants to see a client's certificate."""
    folder = tmp_path_factory.mktemp("tls-registry")
    own = authority.issue_cert("localhost")
    own.private_key_pem.write_to_path(folder / "key")
    for part in own.cert_chain_pems:
        part.write_to_path(folder / "certificate", append=True)
    names = {"certificate": str(folder / "certificate"), "key": str(folder / "key")}
    with running(folder / "run", tls={**names, "clientcas": [str(certificates / "ca.crt")]}) as one:
        yield one


def test_an_own_authority_and_a_clients_certificate(
    base: Path, root: Path, tls_registry: Registry, certificates: Path
) -> None:
    store = Store(root)
    made = store.create(image(base / "image", BASE))
    name = f"{tls_registry.host}/x"
    with pytest.raises(ReflayerError, match=r"its certificate is not trusted.*certs\.d"):
        store.push(made.image, name)
    access = Access(cert_dir=str(certificates))
    store.push(made.image, name, access=access)
    assert Store(base / "other").pull(name, access=access).id == made.image_id
    done = reflayer(base / "third", "pull", "--cert-dir", str(certificates), name)
    assert done.stdout.strip() == made.image_id, done.stderr


@pytest.fixture
def tls_silly(authority: trustme.CA) -> Iterator[Silly]:
    """A server by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with serving(Silly(), context) as one:
        yield one


def test_who_trusts_an_authority_by_environment_or_anybody(
    root: Path, tls_silly: Silly, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls_silly.image(BASE)
    name = f"{tls_silly.host}/x"
    with pytest.raises(ReflayerError, match="not trusted"):
        Store(root).pull(name)
    assert tls_silly.requests == []
    done = reflayer(root, "pull", "--tls-verify=false", name)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    Store(root).pull(name)
    done = reflayer(root, "pull", "--tls-verify", "true", name)
    assert done.returncode == 0, done.stderr


def test_plain_http_is_for_localhost_or_who_asks_for_it(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    with pytest.raises(ReflayerError, match="does not speak TLS: --tls-verify=false"):
        Store(root).pull(f"{silly.host}/x", access=Access(tls_verify=True))
    Store(root).pull(f"{silly.host}/x")


def test_nothing_goes_from_tls_to_plain_http(
    root: Path, tls_silly: Silly, silly: Silly, certificates: Path
) -> None:
    layers = tls_silly.image(BASE)
    silly.image(BASE)
    there = f"http://{silly.host}/v2/x/blobs/{layers[0]}"
    tls_silly.always("GET", layers[0], Answer(307, headers={"Location": there}))
    with pytest.raises(ReflayerError, match="redirects to plain HTTP at localhost"):
        Store(root).pull(f"{tls_silly.host}/x", access=Access(cert_dir=str(certificates)))
    assert silly.requests == []


def test_no_token_is_asked_for_by_plain_http_from_tls(
    root: Path, tls_silly: Silly, silly: Silly, certificates: Path
) -> None:
    asks = f'Bearer realm="http://{silly.host}/token"'
    tls_silly.always("GET", "/", Answer(401, headers={"WWW-Authenticate": asks}))
    with pytest.raises(ReflayerError, match="by plain HTTP"):
        Store(root).pull(f"{tls_silly.host}/x", access=Access(cert_dir=str(certificates)))
    assert silly.requests == []


@pytest.mark.parametrize("name", ["bad.crt", "client.cert"])
def test_a_bad_certificate_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("none")
    with pytest.raises(ReflayerError, match=name):
        tls_context("example.com", verify=True, cert_dir=str(tmp_path))


def test_a_folder_of_certificates_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReflayerError, match="No such file"):
        tls_context("example.com", verify=True, cert_dir=str(tmp_path / "none"))


def test_a_folder_of_certificates_that_one_may_not_read_counts_as_none(
    no_credentials: Path,
) -> None:
    require_root()
    folder = no_credentials / ".config/containers/certs.d"
    (folder / "example.com").mkdir(parents=True)
    (folder / "example.com/bad.crt").write_text("none")
    folder.chmod(0o700)
    with as_nobody():
        tls_context("example.com", verify=True)
        with pytest.raises(ReflayerError, match="Permission denied"):
            tls_context("example.com", verify=True, cert_dir=str(folder / "example.com"))
    with pytest.raises(ReflayerError, match="is no certificate"):
        tls_context("example.com", verify=True)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Have no right beyond everybody's meanwhile."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("10.0.0.1", False),
    ],
)
def test_who_is_this_machine(host: str, is_one: bool) -> None:
    assert is_loopback(host) == is_one
