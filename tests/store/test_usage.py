"""What containers and images take, held against what the file system says when they go."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import StoreError
from reflayer.store.usage import ContainerUsage, ImageUsage, Usage
from tests.archive.tars import entry, folder, tar
from tests.file_systems import require_root
from tests.images.layouts import Layout
from tests.store.stores import BASE, MORE, image

_MB = 1_000_000
_LARGE = 12 * _MB
_MANY = 150
# Beside data: what btrfs takes for its trees, twice, and XFS for chunks of inodes and of folders.
_TOLERANCE = 400_000
_PATIENCE = 120.0  # seconds for file systems that free behind


def _noise(size: int) -> bytes:
    return os.urandom(size)


def _big_layer() -> bytes:
    files = [entry(f"many/{number}", _noise(20_000)) for number in range(_MANY)]
    return tar(folder("many"), entry("large", _noise(_LARGE)), *files)


def _free(path: Path) -> int:
    """Free bytes of the file system, once they change no more."""
    require_root()  # others use what an ordinary user has
    end = time.monotonic() + _PATIENCE
    readings: list[int] = []
    while time.monotonic() < end:
        subprocess.run(["sync", "-f", path], check=True)
        if subprocess.run(["btrfs", "subvolume", "sync", path], capture_output=True).stdout:
            subprocess.run(["sync", "-f", path], check=True)
        status = os.statvfs(path)
        readings.append(status.f_bfree * status.f_frsize)
        if len(readings) > 2 and len(set(readings[-3:])) == 1:
            break
        time.sleep(0.05)
    return readings[-1]


@pytest.fixture(autouse=True)
def _btrfs_that_frees_soon(file_system: Callable[[str], Path]) -> None:
    """It deletes subvolumes behind, when it commits: by default each half minute."""
    if os.geteuid() == 0:
        mount = file_system("btrfs")
        subprocess.run(["mount", "-o", "remount,commit=1", mount], check=True)


def _freed_by_rm(store: Store, name: str, place: Path) -> int:
    before = _free(place)
    store.remove_container(name)
    return _free(place) - before


def _freed_by_rmi(store: Store, name: str, place: Path) -> int:
    before = _free(place)
    store.remove_image(name)
    return _free(place) - before


def _write(path: str, data: bytes, at: int = 0) -> None:
    with open(path, "r+b" if os.path.exists(path) else "wb") as file:
        file.seek(at)
        file.write(data)


def _container(usage: Usage, name: str) -> ContainerUsage:
    return next(one for one in usage.containers if one.container.name == name)


def _image(usage: Usage) -> ImageUsage:
    (one,) = usage.images
    return one


def _assert_near(told: int, real: int, tolerance: int = _TOLERANCE) -> None:
    assert abs(told - real) <= tolerance, f"told {told}, really {real}"


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_rm_of_a_fresh_clone_gives_back_what_df_tells(
    kind: str, place_on: Callable[[str], Path]
) -> None:
    place = place_on(kind)
    store = Store(place / "store")
    store.create(image(place / "image", _big_layer()), name="web")
    told = _container(store.usage(), "web")
    assert told.gives_back == told.space.own
    _assert_near(told.gives_back, _freed_by_rm(store, "web", place))


def test_rm_of_a_changed_clone_gives_back_what_df_tells(place: Path) -> None:
    store = Store(place / "store")
    path = store.create(image(place / "image", _big_layer()), name="web").path
    _write(f"{path}/large", _noise(2 * _MB), at=4 * _MB)
    _write(f"{path}/new", _noise(3 * _MB))
    for number in range(20):
        _write(f"{path}/many/{number}", _noise(20_000))
        os.unlink(f"{path}/many/{number + 20}")
    os.link(f"{path}/new", f"{path}/again")
    told = _container(store.usage(), "web")  # nothing of it has been written out yet
    assert told.gives_back > 5 * _MB
    _assert_near(told.gives_back, _freed_by_rm(store, "web", place))


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_two_clones_share_goes_with_the_second(
    kind: str, place_on: Callable[[str], Path]
) -> None:
    place = place_on(kind)
    store = Store(place / "store")
    made = image(place / "image", _big_layer())
    one, two = (store.create(made, name=name).path for name in ("one", "two"))
    _write(f"{one}/new", _noise(5 * _MB))
    subprocess.run(["cp", "--reflink=always", f"{one}/new", f"{two}/new"], check=True)
    usage = store.usage()
    assert _container(usage, "one").space.own < _MB
    assert usage.total.own + usage.total.shared < 40 * _MB  # a layer, its blob, what is new
    _assert_near(_container(usage, "one").gives_back, _freed_by_rm(store, "one", place))
    told = _container(store.usage(), "two")
    assert told.gives_back > 5 * _MB
    _assert_near(told.gives_back, _freed_by_rm(store, "two", place))


def test_rmi_gives_back_what_df_tells_for_after_the_containers(place: Path) -> None:
    store = Store(place / "store")
    made = image(place / "image", _big_layer())
    for name in ("one", "two"):
        store.create(made, name=name)
    told = _image(store.usage(made))
    assert set(told.users) == {"one", "two"}
    assert told.gives_back == 0
    for name in ("one", "two"):
        store.remove_container(name)
    _free(place)  # until btrfs has taken deleted snapshots apart, they share their blocks
    now = _image(store.usage(made))
    _assert_near(now.gives_back, told.gives_back_later)
    _assert_near(now.gives_back, _freed_by_rmi(store, made, place))


def test_the_last_container_of_a_nameless_image_takes_it_along(base: Path) -> None:
    layout = Layout(base / "image")
    store = Store(base / "store")
    name = f"oci:{layout.folder}:latest"
    layout.index(latest=layout.image(_big_layer()))
    store.create(name, name="old")
    layout.index(latest=layout.image(BASE))
    store.create(name, name="new")
    told = _container(store.usage("old"), "old")
    assert told.gives_back > _LARGE
    _assert_near(told.gives_back, _freed_by_rm(store, "old", base))


def test_a_layer_and_blobs_that_another_image_needs_are_not_given_back(base: Path) -> None:
    layout = Layout(base / "image")
    low, high = layout.image(_big_layer()), layout.image(_big_layer(), MORE)
    layout.index(low=low, high=high)
    store = Store(base / "store")
    for tag in ("low", "high"):
        store.remove_container(store.create(f"oci:{layout.folder}:{tag}").name)
    _free(base)
    usage = store.usage(f"oci:{layout.folder}:high")
    real = _freed_by_rmi(store, f"oci:{layout.folder}:high", base)
    _assert_near(_image(usage).gives_back, real)


def test_what_has_other_owners_outside_the_store_is_not_given_back(
    place_on: Callable[[str], Path],
) -> None:
    base = place_on("xfs")
    source = base / "source"
    source.mkdir()
    _write(f"{source}/large", _noise(_LARGE))
    store = Store(base / "store")
    name = f"rootfs:{source}"
    store.remove_container(store.create(name).name)
    told = _image(store.usage())
    assert told.space.shared >= _LARGE
    assert told.gives_back < _MB
    _assert_near(told.gives_back, _freed_by_rmi(store, name, base))


def test_a_file_copied_within_a_container_by_sharing_is_its_own(
    place_on: Callable[[str], Path],
) -> None:
    base = place_on("xfs")
    store = Store(base / "store")
    path = store.create(image(base / "image", BASE), name="web").path
    _write(f"{path}/one", _noise(5 * _MB))
    subprocess.run(["cp", "--reflink=always", f"{path}/one", f"{path}/two"], check=True)
    told = _container(store.usage(), "web")
    assert told.space.own < told.space.allocated - 4 * _MB
    _assert_near(told.gives_back, _freed_by_rm(store, "web", base))


def test_a_container_that_vanished_takes_nothing(base: Path) -> None:
    store = Store(base / "store")
    path = store.create(image(base / "image", BASE), name="web").path
    subprocess.run(["rm", "-rf", path], check=True)
    told = _container(store.usage(), "web")
    assert (told.space.inodes, told.space.own, told.gives_back) == (0, 0, 0)


def test_names_choose_what_is_told(base: Path) -> None:
    store = Store(base / "store")
    made = image(base / "image", BASE)
    container = store.create(made, name="web")
    store.create(made, name="other")
    assert [one.container.name for one in store.usage("web").containers] == ["web"]
    assert store.usage("web").images == ()
    assert store.usage(container.id[:12]) == store.usage("web")
    assert store.usage(made).containers == ()
    both = store.usage(made, "web")
    assert (len(both.images), len(both.containers)) == (1, 1)
    assert len(store.usage().containers) == 2
    with pytest.raises(StoreError, match="nobody: no such container or image"):
        store.usage("web", "nobody")


def test_nothing_is_made_in_order_to_look(base: Path) -> None:
    usage = Store(base / "store").usage()
    assert (usage.containers, usage.images, usage.total.own) == ((), (), 0)
    assert not (base / "store").exists()
