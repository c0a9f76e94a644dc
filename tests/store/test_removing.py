"""What goes when a container or an image is removed, and what does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import ImageError, OperationError, StoreError
from tests.file_systems import require_root
from tests.images.layouts import Layout
from tests.store.stores import BASE, MORE, MOST, assert_clean, image, layers_in


def test_a_removed_container_is_gone_and_its_image_stays(base: Path, root: Path) -> None:
    store = Store(root)
    container = store.create(image(base / "image", BASE))
    assert store.remove_container(container.name) == container
    assert not os.path.exists(container.path)
    assert store.containers() == []
    assert len(store.images()) == 1
    assert len(layers_in(root)) == 1
    assert_clean(root)


def test_a_container_is_removed_behind_where_nobody_waits(base: Path, root: Path) -> None:
    store = Store(root)
    container = store.create(image(base / "image", BASE))
    store.remove_container(container.id[:12], wait=False)
    assert not os.path.exists(container.path)
    assert_clean(root)


def test_an_image_that_is_in_use_is_not_removed(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", BASE)
    for name in ("one", "two"):
        store.create(made, name=name)
    with pytest.raises(StoreError, match="is in use: remove its containers first: one, two"):
        store.remove_image(made)
    assert len(store.images()) == 1
    store.remove_container("one")
    store.remove_container("two")
    removed = store.remove_image(made)
    assert removed is not None
    assert removed.names == (made,)
    assert store.images() == []
    assert layers_in(root) == set()
    assert_clean(root)


def test_an_image_takes_its_own_layer_along_and_leaves_what_others_need(
    base: Path, root: Path
) -> None:
    layout = Layout(base / "image")
    layout.index(low=layout.image(BASE, MORE), high=layout.image(BASE, MORE, MOST))
    store = Store(root)
    low, high = f"oci:{layout.folder}:low", f"oci:{layout.folder}:high"
    store.remove_container(store.create(low).name)
    kept = store.create(high)
    store.remove_image(low)
    assert_clean(root)
    assert os.listdir(f"{kept.path}/etc") == ["last"]
    again = store.create(high)
    assert os.listdir(f"{again.path}/etc") == ["last"]
    assert_clean(root)


def test_a_name_is_taken_from_an_image_that_has_others(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    both = layout.image(BASE)
    layout.index(one=both, two=both)
    store = Store(root)
    names = [f"oci:{layout.folder}:{tag}" for tag in ("one", "two")]
    for name in names:
        container = store.create(name)
    with pytest.raises(StoreError, match="has 2 names"):
        store.remove_image(container.image_id)
    assert store.remove_image(names[0]) is None
    assert store.images()[0].names == (names[1],)
    with pytest.raises(StoreError, match="no such image"):
        store.remove_image(names[0])
    assert_clean(root)


def test_an_image_is_removed_by_the_beginning_of_its_id(base: Path, root: Path) -> None:
    store = Store(root)
    container = store.create(image(base / "image", BASE))
    store.remove_container(container.name)
    removed = store.remove_image(container.image_id.removeprefix("sha256:")[:10])
    assert removed is not None
    assert_clean(root)


def test_what_is_not_there_cannot_be_removed_and_nothing_is_made_of_it(root: Path) -> None:
    store = Store(root)
    with pytest.raises(StoreError, match="web: no such container"):
        store.remove_container("web")
    with pytest.raises(StoreError, match="alpine: no such image"):
        store.remove_image("alpine")
    with pytest.raises(ImageError):
        store.remove_image("No Name")
    assert store.containers() == []
    assert store.images() == []
    assert not root.exists()


def test_a_container_that_cannot_be_removed_is_still_there(base: Path, root: Path) -> None:
    require_root()
    store = Store(root)
    container = store.create(image(base / "image", BASE))
    subprocess.run(["mount", "--bind", container.path, container.path], check=True)
    try:
        with pytest.raises(OperationError, match=container.id):
            store.remove_container(container.name)
        assert store.container(container.name) == container
    finally:
        subprocess.run(["umount", container.path], check=True)
    store.remove_container(container.name)
    assert_clean(root)
