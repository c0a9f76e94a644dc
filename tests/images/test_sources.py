"""One text says where an image is: by its transport, or by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.errors import ImageError
from reflayer.images.transports import RootFs, new_name, open_source, registry_reference


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("oci:/a/b", "oci:/a/b"),
        ("oci:/a/b/:x", "oci:/a/b:x"),
        ("oci:/a:example.io/b/c:1.2", "oci:/a:example.io/b/c:1.2"),
        ("oci:/a/../b", "oci:/b"),
        ("tar:/a:b/c.tar", "tar:/a:b/c.tar"),
        ("tar:-", "tar:-"),
        ("oci-archive:/a/../b.tar", "oci-archive:/b.tar"),
        ("oci-archive:/b.tar:x", "oci-archive:/b.tar:x"),
        ("docker-archive:-", "docker-archive:-"),
        ("docker-archive:-:x", "docker.io/library/x:latest"),
        ("rootfs:/a:b", "rootfs:/a:b"),
        ("docker-archive:/a.tar:x", "docker.io/library/x:latest"),
        ("docker-archive:/a.tar:localhost:5000/x:1", "localhost:5000/x:1"),
        ("alpine", "docker.io/library/alpine:latest"),
        ("docker://alpine:3", "docker.io/library/alpine:3"),
        ("docker://docker://x", None),
        ("oci:", None),
        ("oci::x", None),
        ("oci:/a:", None),
        ("tar:", None),
        ("rootfs:", None),
        ("docker-archive:", None),
        ("docker-archive:/a:UPPER", None),
        ("docker-archive:/a:@x", None),
        ("tar:a\0b", None),
        ("", None),
        ("./folder", None),
        ("/folder", None),
        ("https://example.com/x", None),
    ],
)
def test_a_text_names_an_image(text: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(ImageError) as caught:
            open_source(text)
        assert str(caught.value).isprintable()
    else:
        assert open_source(text).name == name
        reference = registry_reference(text)
        assert (str(reference) if reference else None) == (name if "alpine" in name else None)


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_source("rootfs:a/../b") == RootFs(f"{tmp_path}/b")
    assert open_source("oci:a:x").name == f"oci:{tmp_path}/a:x"
    assert open_source("tar:a").name == f"tar:{tmp_path}/a"


def test_paths_and_other_transports_are_explained() -> None:
    with pytest.raises(ImageError, match="say which it is by rootfs:"):
        open_source("./folder")
    with pytest.raises(ImageError, match="transport dir: is not known"):
        open_source("dir:/x")
    with pytest.raises(ImageError, match="is an address: give the image's name"):
        open_source("https://registry.example.com/x:1")


def test_a_new_name_is_none_of_a_place_nor_like_a_digest() -> None:
    assert str(new_name("sha256/x:1")) == "docker.io/sha256/x:1"
    for text, reason in {
        "sha256:1234": "would be taken for a digest",
        "sha512": "would be taken for a digest",
        "oci:/x": "is a place",
        f"x@sha256:{'0' * 64}": "no digest yet",
    }.items():
        with pytest.raises(ImageError, match=reason):
            new_name(text)


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_an_image_error(text: str) -> None:
    for prefix in ("", "oci:", "tar:", "rootfs:", "docker-archive:/x:", "docker://"):
        try:
            open_source(prefix + text)
        except ImageError as error:
            message = str(error)
        else:
            message = ""
        assert message.isprintable()


def test_the_room_imports_nothing_above_it() -> None:
    program = "import reflayer.images.transports, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=os.environ
    ).stdout.split()
    above = ("reflayer.driver", "reflayer.store", "reflayer.cli", "reflayer.plugins")
    assert [name for name in loaded if name.startswith(above)] == []
    # Most calls bring nothing in, so what does is not imported yet.
    assert {"reflayer.archive", "reflayer.copy", "concurrent.futures"}.isdisjoint(loaded)
