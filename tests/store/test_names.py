"""What containers are called, and how they are found."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer import Store
from reflayer.errors import StoreError
from reflayer.store.containers import checked_name, free_name
from tests.store.stores import BASE, image


@given(st.text())
def test_a_name_is_taken_exactly_where_docker_takes_it(name: str) -> None:
    allowed = re.fullmatch("[a-zA-Z0-9][a-zA-Z0-9_.-]+", name) is not None
    try:
        assert checked_name(name) == name
    except StoreError:
        assert not allowed
    else:
        assert allowed


@pytest.mark.parametrize("name", ["", "a", "-a", "a b", "a/b", "../a", "web\n", "é1", "a\0b"])
def test_what_is_no_name_is_refused_in_one_line(root: Path, name: str) -> None:
    with pytest.raises(StoreError, match="is no name for a container") as failed:
        Store(root).create("tar:/nowhere", name=name)
    assert "\n" not in str(failed.value)
    assert not root.exists()


def test_names_that_are_made_up_are_names_and_new() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE containers (name TEXT PRIMARY KEY)")
        for _ in range(3000):  # more than there are pairs of words
            name = checked_name(free_name(db))
            db.execute("INSERT INTO containers VALUES (?)", (name,))  # fails where it is taken


def test_a_container_is_found_by_name_id_and_the_beginning_of_its_id(
    base: Path, root: Path
) -> None:
    store = Store(root)
    made = image(base / "image", BASE)
    one = store.create(made, name="one")
    two = store.create(made, name=one.id[:12])  # as if to confuse us
    assert store.container("one") == one
    assert store.container(one.id) == one
    assert store.container(one.id[:12]) == two
    assert store.container(one.id[:13]) == one
    assert [store.container(two.id[:length]) for length in (16, 63, 64)] == [two] * 3
    for nothing in ("", "%", "on", "g", one.id + "0"):
        with pytest.raises(StoreError, match="no such container"):
            store.container(nothing)


def test_a_beginning_that_several_ids_have_is_refused(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", BASE)
    firsts: dict[str, int] = {}
    for _ in range(17):  # there are sixteen digits
        digit = store.create(made).id[0]
        firsts[digit] = firsts.get(digit, 0) + 1
    digit = max(firsts, key=lambda one: firsts[one])
    with pytest.raises(StoreError, match=f"the ids of {firsts[digit]} containers begin so"):
        store.container(digit)
