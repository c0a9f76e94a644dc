"""References are read as Docker reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.errors import ImageError
from reflayer.images.model.reference import Reference, parse_reference

_SOURCE = str(Path(__file__).parents[2] / "src")
DIGEST = "sha256:" + "0123456789abcdef" * 4
LONG = "a" * 255

# From the behaviour of `docker pull`: what is typed, the whole of it, and what is shown.
READ = [
    ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
    ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
    ("user/thing:1", "docker.io/user/thing:1", "user/thing:1"),
    ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
    ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
    ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
    ("example.io/a/b/c", "example.io/a/b/c:latest", "example.io/a/b/c:latest"),
    ("127.0.0.1/x", "127.0.0.1/x:latest", "127.0.0.1/x:latest"),
    ("[::1]:5000/x:y", "[::1]:5000/x:y", "[::1]:5000/x:y"),
    ("[fe80::1]/x", "[fe80::1]/x:latest", "[fe80::1]/x:latest"),
    ("Host/x", "Host/x:latest", "Host/x:latest"),
    ("EXAMPLE.com/x", "EXAMPLE.com/x:latest", "EXAMPLE.com/x:latest"),
    (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}", f"alpine@{DIGEST}"),
    (f"alpine:1@{DIGEST}", f"docker.io/library/alpine:1@{DIGEST}", f"alpine:1@{DIGEST}"),
    ("a_b/c__d/e--f.g:V_1.2-3", "docker.io/a_b/c__d/e--f.g:V_1.2-3", "a_b/c__d/e--f.g:V_1.2-3"),
    ("x:" + "a" * 128, "docker.io/library/x:" + "a" * 128, "x:" + "a" * 128),
    (f"q.io/{LONG}", f"q.io/{LONG}:latest", f"q.io/{LONG}:latest"),
]  # fmt: skip

REFUSED = [
    "",
    ":tag",
    "Alpine",
    "user/Thing",
    "a//b",
    "a/",
    "/a",
    "a:",
    "a:b:c",
    "a:-b",
    "a: b",
    "a:" + "b" * 129,
    "a@",
    "a@sha256:1234",
    "a@sha256:" + "G" * 64,
    "a@md5:" + "0" * 32,
    "a@" + DIGEST + "x",
    "a..b",
    "a.-b",
    "a___b",
    "-a",
    "a-",
    "../a",
    "-host.io/a",
    "[::1/a",
    "[::g]/a",
    "host:port/a",
    f"localhost:{'9' * 5000}/a",
    "example.io/" + "a" * 256,
    "a" * 64,
    "0123456789abcdef" * 4,
    "bücher",
    "alpine:lätest",
    "alpine\n",
    "alpine:latest\n",
    "\N{SUPERSCRIPT TWO}",
    "h.io:\N{ARABIC-INDIC DIGIT ONE}/x",
]


@pytest.mark.parametrize(("text", "whole", "shown"), READ)
def test_a_reference_is_read(text: str, whole: str, shown: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.familiar()) == (whole, shown)


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ImageError):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("user/Thing:1", "the repository must be in lower case"),
        ("localhost:65536/x", "there is no such port"),
        ("x:1:2", "a tag is at most 128 of a-z"),
        ("x@sha256:123", "what follows @ is not a sha256 or sha512 digest"),
        ("user@host/x", "what follows @ is not a sha256 or sha512 digest"),
        ("x:1@", "what follows @ is not a sha256 or sha512 digest"),
    ],
)
def test_the_whole_of_it_and_a_reason_are_named(text: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        parse_reference(text)
    assert str(caught.value).startswith(f"'{text[:300]}' is not an image reference: ")


labels = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
hosts = st.lists(labels, min_size=2, max_size=4).map(".".join) | st.just("localhost")
domains = st.tuples(
    hosts | st.sampled_from(["[::1]", "[2001:db8::1]", "10.0.0.1"]),
    st.none() | st.integers(0, 65535),
).map(lambda parts: parts[0] if parts[1] is None else f"{parts[0]}:{parts[1]}")
components = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
paths = st.lists(components, min_size=1, max_size=4).map("/".join)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(lambda data: f"sha256:{data.hex()}")


@given(domains, paths, tags, st.just("") | digests)
def test_what_is_written_is_read_again(domain: str, path: str, tag: str, digest: str) -> None:
    reference = Reference(domain, path, tag, digest)
    assert parse_reference(str(reference)) == reference


@given(
    st.just("docker.io") | domains,
    paths.filter(lambda path: path.partition("/")[0] != "localhost"),
    tags,
)
def test_what_is_shown_is_read_again(domain: str, path: str, tag: str) -> None:
    reference = parse_reference(f"{domain}/{path}:{tag}")
    first = reference.path.partition("/")[0]
    if domain == "docker.io" and "." in first:
        return  # shown as Docker shows it, and read as Docker reads it: as a domain
    assert parse_reference(reference.familiar()) == reference


@given(st.text(max_size=80) | st.text("aA0:/@.-_[]\n", max_size=40))
def test_any_text_is_a_reference_or_an_image_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ImageError as error:
        message = str(error)
    else:
        message = str(reference)
        assert parse_reference(message) == reference
    assert message.isprintable()


def test_the_usual_names_need_no_grammar() -> None:
    """Compiling one would take a tenth of the time of a command that only takes a name."""
    code = """
import sys
from reflayer.images.model.reference import parse_reference
for text in ("debian", "debian:12.5-slim_1", "library/debian:latest", "docker.io/library/debian"):
    parse_reference(text)
print("re" in sys.modules)
"""
    code = f"import sys; sys.path.insert(0, {_SOURCE!r}){code}"
    command = [sys.executable, "-I", "-S", "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"
