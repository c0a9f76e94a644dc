"""Containers of user namespaces: ``create --map``, and what is made of them is an image's again."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.driver import Driver
from reflayer.errors import OperationError, StoreError
from reflayer.walk.id_map import IdMap
from tests.driver.layers import tree
from tests.driver.test_id_map import owner
from tests.file_systems import require_root
from tests.store.stores import BASE, GROUP, MORE, OWNER, image, reflayer
from tests.trees import assert_same

_MAP = "u0:100000:65536,g0:300000:65536"


@pytest.fixture(params=["xfs", "btrfs", "ext4"])
def store(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Store:
    """A store with the image ``base:1``, and the container ``box`` of it."""
    require_root()
    store = Store(place_on(request.param) / "store")
    source = image(Path(store.root).parent / "image", BASE, MORE)
    store.create(source, name="box", id_map=_MAP)
    store.commit("box", "base:1")
    return store


def test_the_owners_are_the_hosts_and_those_of_an_image_of_it_are_not(store: Store) -> None:
    box = store.container("box")
    assert box.id_map == IdMap.parse(_MAP)
    assert owner(f"{box.path}/etc/passwd") == (100_000 + OWNER, 300_000 + GROUP)
    assert os.stat(f"{box.path}/bin/sh").st_mode & 0o7777 == 0o4755
    assert list(store.changes("box")) == []
    Path(box.path, "etc/mine").write_text("mine")
    os.chown(f"{box.path}/etc/mine", 100_005, 300_006)
    plain = store.commit("box", "base:2").image
    again = store.create(plain.id)
    assert again.id_map is None
    assert owner(f"{again.path}/etc/mine") == (5, 6)
    assert owner(f"{again.path}/etc/passwd") == (OWNER, GROUP)
    back = store.create(plain.id, id_map=_MAP)
    assert_same(tree(back.path), tree(box.path))
    out = io.BytesIO()
    store.export("box", out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        found = {one.name: (one.uid, one.gid) for one in tar}
    assert found["etc/mine"] == (5, 6)
    assert found["etc/passwd"] == (OWNER, GROUP)


def test_checkpoints_have_the_ids_of_the_image(store: Store) -> None:
    box = store.container("box")
    Path(box.path, "new").write_text("new")
    os.chown(f"{box.path}/new", 100_005, 300_006)
    store.checkpoint("box", "one")
    kept = tree(box.path)
    os.unlink(f"{box.path}/new")
    assert ("A", "/new") in list(store.changes("box@one"))
    assert list(store.changes("box", "box@one")) == [("D", "/new")]
    store.rollback("box", "one")
    box = store.container("box")
    assert_same(tree(box.path), kept)
    assert_same(tree(store.fork("box", "one").path), kept)
    assert_same(tree(store.create("box@one", id_map=_MAP).path), kept)
    store.commit("box@one", "base:3")
    assert owner(f"{store.create('base:3').path}/new") == (5, 6)
    assert owner(f"{store.create('base:3', id_map='0:7:65536').path}/new") == (12, 13)


def test_what_is_kept_ready_for_a_map_is_for_containers_of_that_map_alone(store: Store) -> None:
    store.warm("base:1", 1, id_map=_MAP)
    (warm,) = store.spares()
    assert (warm.count, warm.ready) == (1, 1)
    (spares,) = Driver(f"{store.root}/layers").spares()
    ready = os.stat(spares.paths[0])
    plain = store.create("base:1")
    assert owner(f"{plain.path}/etc/passwd") == (OWNER, GROUP)
    other = store.create("base:1", id_map="0:500000:65536")
    assert owner(f"{other.path}/etc/passwd") == (500_000 + OWNER, 500_000 + GROUP)
    assert not any(os.path.samestat(ready, os.stat(one.path)) for one in (plain, other))
    mapped = store.create("base:1", id_map=_MAP)
    assert os.path.samestat(os.stat(mapped.path), ready)
    assert mapped.id_map == IdMap.parse(_MAP)
    assert_same(tree(mapped.path), tree(store.container("box").path))
    assert list(store.changes(mapped.name)) == []
    store.warm("base:1", 1)  # an image has one kind
    plain = store.create("base:1")
    assert owner(f"{plain.path}/etc/passwd") == (OWNER, GROUP)
    store.warm("base:1", 0)


def test_none_is_kept_ready_for_a_map_of_very_many_ranges(store: Store) -> None:
    text = ",".join(f"{number}:{100_000 + 2 * number}" for number in range(20))
    with pytest.raises(OperationError, match="keep spares: the map of ids has too many ranges"):
        store.warm("base:1", 1, id_map=text)
    assert store.spares() == []


def test_the_program_maps_and_tells_so(base: Path, root: Path) -> None:
    require_root()
    source = image(base / "image", BASE)
    made = reflayer(root, "create", "--name=box", "--map=0:5000:8", source)
    assert "map its owners: Container ID 9 cannot be mapped" in made.stderr
    assert "/etc/passwd" in made.stderr
    assert (made.returncode, reflayer(root, "ps", "-q").stdout) == (1, "")
    words = ("--map=0:5000:8", "--map=g8:7000:100", "--map=u8:9000")
    made = reflayer(root, "create", "--json", "--name=box", *words, source)
    told = json.loads(made.stdout)
    assert told["map"] == "u0:5000:8,u8:9000:1,g0:5000:8,g8:7000:100"
    assert owner(f"{told['path']}/etc/passwd") == (5007, 7001)
    plain = json.loads(reflayer(root, "create", "--json", "--map=u0:0:10", source).stdout)
    assert owner(f"{plain['path']}/etc/passwd") == (7, 9)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("0:100000",), "Container ID 7 cannot be mapped"),
        (("1:100000:65536",), "Container ID 0 cannot be mapped"),
        (("0:5:65536", "9:9:1"), "--map the id 9 of 9:9:1 is in another range, too"),
        (("0:5:6", "9:9:1"), "--map the id 9 of 9:9:1 is in another range, too"),
        (("much",), "--map 'much' is not CONTAINER:HOST[:SIZE], say 0:100000:65536"),
        (("0:4294967295:1",), "--map '0:4294967295:1': there are the ids 0 to 4294967294"),
        (("0:0:0",), "--map '0:0:0': there are the ids 0 to"),
    ],
)
def test_what_is_no_map_is_refused(
    base: Path, root: Path, words: tuple[str, ...], reason: str
) -> None:
    require_root()
    source = image(base / "image", BASE)
    made = reflayer(root, "create", *(f"--map={word}" for word in words), source)
    assert reason in made.stderr
    assert made.returncode == (2 if "--map" in reason else 1)
    assert reflayer(root, "ps", "-q").stdout == ""


def test_who_keeps_no_owners_cannot_map_them(base: Path, root: Path) -> None:
    source = image(base / "image", BASE)
    with pytest.raises(StoreError, match="owners are mapped where they are kept"):
        Store(root, ownership="record").create(source, id_map=_MAP)
