"""Platforms have one name each, and the best of several is taken."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.errors import ImageError
from reflayer.images.model.platform import Platform


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/X86-64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v8.0", "linux/arm64"),
        ("linux/arm64/v9.0", "linux/arm64/v9"),
        ("linux/arm64/v8.2", "linux/arm64/v8.2"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/armv7l", "linux/arm/v7"),
        ("linux/i386", "linux/386"),
        ("linux/i686", "linux/386"),
        ("linux/s390x", "linux/s390x"),
        ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_a_platform_has_one_name(text: str, normal: str) -> None:
    platform = Platform.parse(text)
    assert str(platform) == normal
    assert Platform.parse(normal) == platform


def test_half_a_platform_is_completed_by_this_machine() -> None:
    here = Platform.of_machine()
    assert here.os == os.uname().sysname.lower()
    assert Platform.parse("linux") == here
    assert Platform.parse("s390x") == Platform("linux", "s390x")


@pytest.mark.parametrize("text", ["", "linux/", "/amd64", "a/b/c/d", "linux/a b", "linux/*", "a\n"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="is not a platform"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("text", "fitting"),
    [
        ("linux/amd64", "amd64 386"),
        ("linux/amd64/v3", "amd64/v3 amd64/v2 amd64 386"),
        ("linux/386", "386"),
        ("linux/arm/v7", "arm/v7 arm/v6 arm/v5"),
        ("linux/arm64", "arm64 arm/v8 arm/v7 arm/v6 arm/v5"),
        ("linux/arm64/v8.2", "arm64/v8.2 arm64/v8.1 arm64 arm/v8 arm/v7 arm/v6 arm/v5"),
        (
            "linux/arm64/v9.1",
            "arm64/v9.1 arm64/v9 arm64/v8.6 arm64/v8.5 arm64/v8.4 arm64/v8.3 arm64/v8.2 arm64/v8.1 "
            "arm64 arm/v8 arm/v7 arm/v6 arm/v5",
        ),
        ("linux/riscv64", "riscv64"),
    ],
)
def test_what_runs_on_a_platform_is_tried_best_first(text: str, fitting: str) -> None:
    names = [str(platform) for platform in Platform.parse(text).fitting()]
    assert names == [f"linux/{name}" for name in fitting.split()]


parts = st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True) | st.sampled_from(
    ["arm", "arm64", "amd64", "v8", "v9.9", "v99", "v²", "8"]
)


@given(parts, parts, st.just("") | parts)
def test_normal_names_stay_as_they_are(system: str, architecture: str, variant: str) -> None:
    platform = Platform(system, architecture, variant)
    assert Platform(platform.os, platform.architecture, platform.variant) == platform
    assert len(list(platform.fitting())) < 40
