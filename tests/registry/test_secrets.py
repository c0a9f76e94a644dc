"""Credentials: where they are looked for, and whom they reach; nobody else, whatever happens."""

from __future__ import annotations

import json
import stat
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from reflayer import Store
from reflayer.errors import DeniedError, ReflayerError
from reflayer.images.registry import Access, Credentials
from reflayer.images.registry.credentials import find_credentials
from reflayer.images.registry.token import Challenge, parse_challenges
from tests.registry.registries import PASSWORD, USER, Registry
from tests.registry.silly import Answer, Request, Silly, serving
from tests.store.stores import BASE, assert_clean, image, reflayer

SECRET = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
BASIC = f"Basic {SECRET}"


@pytest.fixture
def elsewhere() -> Iterator[Silly]:
    """Another host."""
    with serving(Silly()) as one:
        yield one


def auth_file(path: Path, host: str, **entry: str) -> Path:
    """A file of credentials for ``host``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {host: entry or {"auth": SECRET}}}))
    return path


def shut(silly: Silly) -> None:
    """Have it ask everybody for a password."""

    def ask(request: Request) -> Answer | None:
        if request.headers.get("authorization") == BASIC:
            return None
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    silly.handlers.insert(0, ask)


def tokens(silly: Silly, server: Silly, token: str = "t0ken") -> None:
    """Have it ask for tokens that ``server`` gives."""
    asks = f'Bearer realm="http://{server.host}/token",service="s",scope="ignored:x:y"'

    def ask(request: Request) -> Answer | None:
        if request.headers.get("authorization") == f"Bearer {token}":
            return None
        return Answer(401, headers={"WWW-Authenticate": asks})

    silly.handlers.insert(0, ask)
    server.handlers.append(
        lambda request: (
            Answer(body=json.dumps({"token": token}).encode()) if request.path == "/token" else None
        )
    )


@pytest.mark.parametrize("how", ["creds", "docker", "podman", "environment", "option", "helper"])
def test_a_registry_with_a_password_lets_us_in(
    base: Path,
    root: Path,
    shut_registry: Registry,
    no_credentials: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    host, home = shut_registry.host, no_credentials
    access = Access()
    match how:
        case "creds":
            access = Access(credentials=Credentials(USER, PASSWORD))
        case "docker":
            auth_file(home / ".docker/config.json", host)
        case "podman":
            auth_file(home / "run/containers/auth.json", f"{host}/in")
        case "environment":
            monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth_file(home / "x", host)))
        case "option":
            access = Access(auth_file=str(auth_file(home / "x", host)))
        case "helper":
            helper(home, monkeypatch, json.dumps({"Username": USER, "Secret": PASSWORD}))
            (home / ".docker").mkdir()
            (home / ".docker/config.json").write_text('{"credsStore": "test", "auths": {}}')
    store = Store(root)
    made = store.create(image(base / "image", BASE))
    pushed = store.push(made.image, f"{host}/in/{how}", access=access)
    assert str(pushed).startswith(f"{host}/in/{how}:latest@sha256:")
    pulled = Store(base / "other").pull(f"{host}/in/{how}", access=access)
    assert pulled.id == made.image_id


def test_who_is_known_but_may_not_is_told_by_which_credentials(
    root: Path, silly: Silly, no_credentials: Path
) -> None:
    shut(silly)
    silly.always("GET", "/manifests/", Answer(403))
    auth_file(no_credentials / ".docker/config.json", silly.host)
    with pytest.raises(
        DeniedError, match=r"403 Forbidden: .* not for the credentials .*config.json"
    ):
        Store(root).pull(f"{silly.host}/x")


def helper(home: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int = 0) -> Path:
    """A credential helper ``test``; it writes down what it is asked for."""
    program = home / "bin/docker-credential-test"
    program.parent.mkdir()
    asked = home / "asked"
    program.write_text(f"#!/bin/sh\ncat >{asked}\necho '{answer}'\nexit {status}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return asked


def test_without_or_with_wrong_credentials_it_says_what_to_do(
    root: Path, shut_registry: Registry
) -> None:
    name = f"{shut_registry.host}/x"
    with pytest.raises(ReflayerError, match="asks for credentials: docker login"):
        Store(root).pull(name)
    wrong = Access(credentials=Credentials(USER, "wr0ng-secret", origin="of --creds"))
    with pytest.raises(ReflayerError, match="refuses the credentials of --creds") as caught:
        Store(root).pull(name, access=wrong)
    assert "wr0ng" not in str(caught.value) + repr(caught.value) + repr(wrong)


def test_a_password_comes_by_standard_input(root: Path, silly: Silly) -> None:
    import subprocess

    from tests.cli.processes import PROGRAM

    silly.image(BASE)
    shut(silly)
    command = [*PROGRAM, "--root", str(root), "pull", "--creds", USER, f"{silly.host}/x"]
    done = subprocess.run(
        command, input=f"{PASSWORD}\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sha256:")


def test_the_longest_name_counts_and_the_first_file_that_has_one(no_credentials: Path) -> None:
    home = no_credentials
    entries = {
        "example.com": {"auth": b64encode(b"host:1").decode()},
        "example.com/a": {"auth": b64encode(b"a:2").decode()},
        "example.com/a/b": {"auth": b64encode(b"b:3").decode()},
        "https://index.docker.io/v1/": {"identitytoken": "hub"},
        "https://old.example.com/v2/": {"auth": b64encode(b"old:4").decode()},
    }
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(json.dumps({"auths": entries}))

    def user(domain: str, path: str) -> str | None:
        found = find_credentials(domain, path)
        return None if found is None else found.user or found.identity_token

    assert user("example.com", "a/b/c") == "b"
    assert user("example.com", "a/b") == "b"
    assert user("example.com", "a/bc") == "a"
    assert user("example.com", "x") == "host"
    assert user("example.com:5000", "x") is None
    assert user("docker.io", "library/x") == "hub"
    assert user("old.example.com", "x") == "old"
    auth_file(home / "run/containers/auth.json", "example.com")
    assert user("example.com", "a/b") == USER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"auths": {"h": {"auth": "*"}}}', "not base64"),
        ('{"auths": {"h": {"auth": "c2VjcmV0"}}}', "not USER:PASSWORD"),
        ('{"credsStore": "../x"}', "not the name of a credential helper"),
        ('{"credsStore": "absent"}', "docker-credential-absent cannot be run"),
        ('{"auths": "c2VjcmV0"}', "is not an object"),
    ],
)
def test_a_bad_file_is_told_without_what_is_in_it(
    no_credentials: Path, text: str, message: str
) -> None:
    file = no_credentials / "auth.json"
    file.write_text(text)
    with pytest.raises(ReflayerError, match=message) as caught:
        find_credentials("h", "x", str(file))
    assert "c2VjcmV0" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_helper_that_fails_tells_no_secret(
    no_credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(no_credentials, monkeypatch, "my secret", status=3)
    file = no_credentials / "auth.json"
    file.write_text('{"credHelpers": {"h": "test"}}')
    with pytest.raises(ReflayerError, match="failed for h with the status 3") as caught:
        find_credentials("h", "x", str(file))
    assert "secret" not in str(caught.value)
    assert find_credentials("other", "x", str(file)) is None


def test_a_helper_that_has_nothing_is_no_error(
    no_credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = helper(
        no_credentials, monkeypatch, "credentials not found in native keychain", status=1
    )
    file = no_credentials / "auth.json"
    file.write_text('{"credsStore": "test"}')
    assert find_credentials("docker.io", "x", str(file)) is None
    assert asked.read_text() == "https://index.docker.io/v1/"


@pytest.mark.parametrize(
    ("answer", "status"),
    [("No stored credential", 1), ("", 1), ("", 0), ("{}", 0), ("not JSON", 0), (None, 0)],
)
def test_what_a_helper_has_not_is_looked_for_elsewhere_and_missed_only_where_it_is_wanted(
    root: Path,
    silly: Silly,
    elsewhere: Silly,
    no_credentials: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
    status: int,
) -> None:
    if answer is not None:
        helper(no_credentials, monkeypatch, answer, status)
    silly.image(BASE)
    tokens(silly, elsewhere)
    name = f"{silly.host}/x"
    file = auth_file(no_credentials / ".docker/config.json", silly.host)
    known = json.loads(file.read_text())
    file.write_text(json.dumps({"credsStore": "test"}))
    Store(root).pull(name)
    assert "authorization" not in elsewhere.requests[-1].headers
    silly.handlers.clear()
    shut(silly)
    with pytest.raises(ReflayerError, match=r"asks for credentials: .*docker"):
        Store(root).pull(name)
    file.write_text(json.dumps({"credsStore": "test", **known}))
    Store(root).pull(name)


def test_a_broken_file_of_credentials_is_no_error_where_nobody_needs_one(
    root: Path, silly: Silly, elsewhere: Silly, no_credentials: Path
) -> None:
    silly.image(BASE)
    tokens(silly, elsewhere)
    broken = no_credentials / ".docker/config.json"
    broken.parent.mkdir()
    broken.write_text("{")
    Store(root).pull(f"{silly.host}/x")
    shut(silly)
    with pytest.raises(ReflayerError, match=r"asks for credentials: .*config.json is not JSON"):
        Store(root).pull(f"{silly.host}/x")


def test_a_host_may_be_excepted_from_the_helper_of_all_others(no_credentials: Path) -> None:
    file = no_credentials / "auth.json"
    file.write_text('{"credsStore": "absent", "credHelpers": {"h": ""}}')
    assert find_credentials("h", "x", str(file)) is None


@pytest.mark.parametrize("key", ["h:5000", "http://h:5000", "https://h:5000/v2/", "h:5000/v1/"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_is_read_however_it_was_written(no_credentials: Path, key: str, end: str) -> None:
    text = b64encode(b"robot:p\xe4ss" + b"s" * 90).decode()
    file = auth_file(no_credentials / "auth.json", key, auth=f"{text[:76]}{end}{text[76:]}{end}")
    found = find_credentials("h:5000", "team/x", str(file))
    assert found is not None
    assert found.password.encode(errors="surrogateescape") == b"p\xe4ss" + b"s" * 90


@pytest.mark.parametrize("outside", ["signature", "password"])
def test_a_redirect_out_of_the_api_takes_no_token_along_unless_it_is_asked_for(
    root: Path, silly: Silly, elsewhere: Silly, outside: str
) -> None:
    (layer,) = silly.image(BASE)
    there = Answer(307, headers={"Location": f"/bucket/{layer}?signature=1"})

    def bucket(request: Request) -> Answer | None:
        if not request.path.startswith("/bucket/"):
            return None
        known = "authorization" in request.headers
        if known == (outside == "signature"):
            return Answer(400 if known else 403)
        return Answer(body=silly.blobs[layer])

    silly.always("GET", f"/blobs/{layer}", there)
    silly.handlers.insert(0, bucket)
    tokens(silly, elsewhere)
    silly.handlers.insert(0, silly.handlers.pop(1))
    Store(root).pull(f"{silly.host}/x")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("scope", ["repository:upstream/x:pull", "aws", "aws repository:y:pull"])
def test_a_gateway_names_the_scope_that_a_token_is_for(
    root: Path, silly: Silly, elsewhere: Silly, scope: str, strict: bool
) -> None:
    """A strict token server gives none for a scope that it does not know."""
    silly.image(BASE)

    def give(request: Request) -> Answer:
        asked = " ".join(parse_qs(request.query)["scope"]).split()
        known = [one for one in asked if one in scope.split()]
        if strict and known != asked:
            return Answer(403)
        return Answer(body=json.dumps({"access_token": "+".join(known) or "no"}).encode())

    def ask(request: Request) -> Answer | None:
        if request.headers.get("authorization") == f"Bearer {'+'.join(scope.split())}":
            return None
        said = f'Bearer realm="http://{elsewhere.host}/token",scope="{scope}"'
        return Answer(401, headers={"WWW-Authenticate": said})

    elsewhere.handlers.append(give)
    silly.handlers.append(ask)
    Store(root).pull(f"{silly.host}/x")
    assert len(elsewhere.requests) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_takes_no_credentials_along(
    root: Path, silly: Silly, elsewhere: Silly, no_credentials: Path, status: int
) -> None:
    layers = silly.image(BASE)
    elsewhere.image(BASE)
    for part in (f"/blobs/{layers[0]}", "/manifests/latest"):
        there = f"http://{elsewhere.host}/v2/y{part}"
        silly.always("GET", part, Answer(status, headers={"Location": there}))
    shut(silly)
    auth_file(no_credentials / ".docker/config.json", silly.host)
    Store(root).pull(f"{silly.host}/x")
    assert silly.seen("GET", layers[0])[-1].headers["authorization"] == BASIC
    assert len(elsewhere.requests) == 2
    assert not any("authorization" in one.headers for one in elsewhere.requests)
    assert_clean(root)


def test_who_a_redirect_leads_to_cannot_ask_for_credentials(
    root: Path, silly: Silly, elsewhere: Silly, no_credentials: Path
) -> None:
    (layer,) = silly.image(BASE)
    there = {"Location": f"http://{elsewhere.host}/blob"}
    silly.always("GET", f"/blobs/{layer}", Answer(302, headers=there))
    asks = {"WWW-Authenticate": f'Bearer realm="http://{elsewhere.host}/token"'}
    elsewhere.always("GET", "/blob", Answer(401, headers=asks))
    elsewhere.always("GET", "/token", Answer(body=b'{"token": "t0ken"}'))
    shut(silly)
    auth_file(no_credentials / ".docker/config.json", silly.host)
    with pytest.raises(ReflayerError, match=f"{elsewhere.host}: .* cannot be had: 401"):
        Store(root).pull(f"{silly.host}/x")
    assert [one.path for one in elsewhere.requests] == ["/blob"]


def test_a_token_is_asked_for_what_is_done_and_goes_only_to_the_registry(
    root: Path, silly: Silly, elsewhere: Silly, no_credentials: Path
) -> None:
    silly.image(BASE)
    tokens(silly, elsewhere)
    auth_file(no_credentials / ".docker/config.json", silly.host)
    Store(root).pull(f"{silly.host}/team/x")
    (asked,) = elsewhere.requests
    assert asked.method == "GET"
    assert parse_qs(asked.query) == {"service": ["s"], "scope": ["repository:team/x:pull"]}
    assert asked.headers["authorization"] == BASIC
    sent = {one.headers.get("authorization") for one in silly.requests}
    assert sent == {None, "Bearer t0ken"}


def test_without_credentials_a_token_is_asked_for_anonymously(
    root: Path, silly: Silly, elsewhere: Silly
) -> None:
    silly.image(BASE)
    tokens(silly, elsewhere)
    Store(root).pull(f"{silly.host}/x")
    assert "authorization" not in elsewhere.requests[0].headers


def test_an_identity_token_is_exchanged(
    root: Path, silly: Silly, elsewhere: Silly, no_credentials: Path
) -> None:
    silly.image(BASE)
    tokens(silly, elsewhere)
    auth_file(no_credentials / ".docker/config.json", silly.host, identitytoken="refresh-me")
    Store(root).pull(f"{silly.host}/x")
    (asked,) = elsewhere.requests
    assert asked.method == "POST"
    form = parse_qs(asked.body.decode())
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["refresh-me"]
    assert form["scope"] == ["repository:x:pull"]
    assert not any("refresh-me" in str(one) for one in silly.requests)


def test_a_token_server_may_know_oauth_2_alone(
    root: Path, silly: Silly, elsewhere: Silly, no_credentials: Path
) -> None:
    silly.image(BASE)
    tokens(silly, elsewhere)
    elsewhere.handlers.insert(0, lambda one: Answer(405) if one.method == "GET" else None)
    auth_file(no_credentials / ".docker/config.json", silly.host)
    Store(root).pull(f"{silly.host}/x")
    form = parse_qs(elsewhere.requests[-1].body.decode())
    assert form["grant_type"] == ["password"]
    assert form["username"] == [USER]
    assert form["password"] == [PASSWORD]


def test_a_token_server_that_redirects_gets_no_credentials_sent_on(
    root: Path, silly: Silly, elsewhere: Silly, no_credentials: Path
) -> None:
    silly.image(BASE)
    tokens(silly, elsewhere)
    with serving(Silly()) as third:
        third.always("GET", "/", Answer(body=b'{"token": "t0ken"}'))
        moved = Answer(302, headers={"Location": f"http://{third.host}/token"})
        elsewhere.handlers.insert(0, lambda _: moved)
        auth_file(no_credentials / ".docker/config.json", silly.host)
        Store(root).pull(f"{silly.host}/x")
        assert len(third.requests) == 1
        assert "authorization" not in third.requests[0].headers


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"<html>"),
        Answer(body=b"{}"),
        Answer(body=b'{"token": 5}'),
        Answer(body=b'{"token": "a\\r\\nX-Evil: 1"}'),
        Answer(body=b'{"token": ""}'),
        Answer(body=b'{"token": "x", "expires_in": 1%s}' % (b"0" * 400)),
        Answer(body=b" " * (1 << 16), endless=True),
        Answer(404),
        Answer(401),
        Answer(302, headers={"Location": "/token"}),
    ],
)
def test_a_token_server_that_lies_is_one_line(
    root: Path, silly: Silly, elsewhere: Silly, no_credentials: Path, answer: Answer
) -> None:
    silly.image(BASE)
    tokens(silly, elsewhere)
    elsewhere.handlers.insert(0, lambda _: answer)
    auth_file(no_credentials / ".docker/config.json", silly.host)
    done = reflayer(root, "pull", f"{silly.host}/x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    assert PASSWORD not in done.stderr


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="a \\"b\\""', [Challenge("basic", {"realm": 'a "b"'})]),
        (
            'Bearer realm="https://x/t",service=s , Basic realm=y',
            [
                Challenge("bearer", {"realm": "https://x/t", "service": "s"}),
                Challenge("basic", {"realm": "y"}),
            ],
        ),
        (
            "Negotiate, bearer Realm=r",
            [Challenge("negotiate", {}), Challenge("bearer", {"realm": "r"})],
        ),
        ("", []),
        ('="', []),
    ],
)
def test_challenges_are_read_as_http_has_them(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges([header]) == challenges
