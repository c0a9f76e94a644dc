"""containerd's filter language."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.plugins.containerd.labels import parse_filters
from reflayer.plugins.containerd.records import InvalidArgumentError, Kind, Snapshot


def snapshot(name: str, parent: str, kind: Kind, **labels: str) -> Snapshot:
    return Snapshot(name, parent, kind, "f", 1, 1, labels)


ALL = [
    snapshot("base", "", Kind.COMMITTED),
    snapshot("base2", "base", Kind.COMMITTED, foo="true"),
    snapshot("run/1", "base2", Kind.ACTIVE, foo="omg_asdf.asdf-qwer", **{"a.b/c": "too, long"}),
    snapshot("run/2", "base2", Kind.ACTIVE, **{'with \\ and "': "x", "a": "1"}),
    snapshot("look", "base", Kind.VIEW, **{'with \\ and ".post': "y", "ü ☃": "é"}),
]


def names(*filters: str) -> list[str]:
    """The names of those that match."""
    wanted = parse_filters(filters)
    return [one.name for one in ALL if wanted(one)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["base", "base2", "run/1", "run/2", "look"]),
        ("name", ["base", "base2", "run/1", "run/2", "look"]),
        ("parent", ["base", "base2", "run/1", "run/2", "look"]),
        ("nothing", []),
        ("labels", []),
        ("name==base", ["base"]),
        ('name=="base"', ["base"]),
        ("name == base", ["base"]),
        (" name==base", ["base"]),
        ("name!=base", ["base2", "run/1", "run/2", "look"]),
        ("name~=base", ["base", "base2"]),
        ("name~=^base$", ["base"]),
        ("name~=/^run./", ["run/1", "run/2"]),
        (r"name~=/^run\/1/", ["run/1"]),
        ("name~=|[ao]{1,2}k|", ["look"]),
        (r'name~="^base\\d"', ["base2"]),
        ("kind==active", ["run/1", "run/2"]),
        ("kind==committed", ["base", "base2"]),
        ("kind==view", ["look"]),
        ("kind==Active", []),
        ('kind!=view,parent!=""', ["base2", "run/1", "run/2"]),
        ("parent==base", ["base2", "look"]),
        ('parent==""', ["base"]),
        ("labels.foo", ["base2", "run/1"]),
        ("labels.foo==true", ["base2"]),
        ("labels.foo!=true", ["base", "run/1", "run/2", "look"]),
        ("labels.foo==omg_asdf.asdf-qwer", ["run/1"]),
        ('labels.foo!=""', ["base2", "run/1"]),
        ("labels.foo~=/./", ["base2", "run/1"]),
        ("labels.foo~=^$", ["base", "run/2", "look"]),
        ('labels."a.b/c"', ["run/1"]),
        ('labels.a."b/c"', ["run/1"]),
        ('labels."a.b/c"=="too, long",kind==active', ["run/1"]),
        (r'labels."with \\ and \""==x', ["run/2"]),
        (r'labels."with \\ and \"".post==y', ["look"]),
        (r'labels."\u00fc \xe2\x98\x83"=="\303\251"', ["look"]),
        (r'labels."\U000000fc ☃"==é', ["look"]),
        ("name.more==base", ["base"]),
    ],
)
def test_a_filter_matches(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "name==foo,",
        ",name",
        "name,,kind",
        "labels.",
        "labels..foo",
        "name=foo",
        "name==",
        "name!==foo",
        "name=~foo",
        "name==a b",
        "name ",
        "name==foo ",
        "labels.|foo|==x",
        "labels.ns/key==value",
        "labels.?foo",
        'name=="foo',
        "name==/foo/",
        "name==/foo",
        r'name=="\q"',
        r'name=="\400"',
        r'name=="\U00110000"',
        r"name~=/a\.b/",
        'name=="a\nb"',
        'name=="a"b',
        "image~=,id?=?fbaq",
        "name==.foo",
        "name~=(",
        f"name~={'(' * 5000}",
        f"name~=/a{{{'9' * 30}}}/",
    ],
)
def test_what_is_no_filter_is_refused_with_the_place(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"after [0-9]+ characters") as refused:
        parse_filters([text])
    assert repr(text) in str(refused.value)


def test_one_filter_of_several_is_enough() -> None:
    assert names("name==base", "labels.foo==true,kind==committed") == ["base", "base2"]


def test_an_empty_filter_beside_others_matches_everything() -> None:
    assert len(names("name==base", "")) == len(ALL)


@given(st.text())
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    with suppress(InvalidArgumentError):
        names(text)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")))
def test_a_quoted_value_means_itself(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    one = snapshot("name", value, Kind.ACTIVE)
    assert parse_filters([f'parent=="{quoted}"'])(one)
    assert not parse_filters([f'parent!="{quoted}"'])(one)
