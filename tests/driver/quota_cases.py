"""Cases of a size for a container's layer, for a kernel with project quotas.

``test_quota`` runs them under one, since that of the tests itself may have none.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.errors import CopyError, QuotaError
from reflayer.linux.project_quota import Project, next_project, project_of, set_project
from tests.driver.layers import leftovers, make, tree
from tests.quotas import FULL, writable
from tests.trees import assert_same

_MIB = 1 << 20


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    """A driver with a filled layer of 5 MiB."""
    driver = Driver(tmp_path / "home")
    path = make(driver, "base")
    (Path(path) / "large").write_bytes(os.urandom(5 * _MIB))
    os.link(Path(path) / "large", Path(path) / "folder/large")
    return driver


def project(driver: Driver, id: str) -> Project:
    fd = os.open(driver.path(id), os.O_RDONLY)
    try:
        return project_of(fd)
    finally:
        os.close(fd)


def test_a_clone_of_a_difference_has_a_size_too(driver: Driver) -> None:
    driver.create_difference("layer", "base")
    (Path(driver.folder("layer")) / "more").write_bytes(os.urandom(_MIB))
    driver.sync("layer")
    driver.create("clone", "layer", size=20 * _MIB)
    assert driver.lower("layer") == "base"
    assert 12 <= writable(driver.path("clone")) <= 14
    with pytest.raises(CopyError):
        driver.create("small", "layer", size=_MIB)
    assert leftovers(driver) == []


def test_a_container_cannot_write_more_than_its_size(driver: Driver) -> None:
    driver.create("clone", "base", size=20 * _MIB)
    assert_same(tree(driver.path("base")), tree(driver.path("clone")))
    assert 13 <= writable(driver.path("clone")) <= 15
    assert leftovers(driver) == []


def test_an_empty_layer_has_a_size_too(driver: Driver) -> None:
    driver.create("empty", size=4 * _MIB)
    assert 3 <= writable(driver.path("empty")) <= 4


def test_the_drivers_size_is_for_containers_that_have_none_of_their_own(driver: Driver) -> None:
    home = driver.home
    driver = Driver(home, size=8 * _MIB)
    with driver.build("image", "base"):
        pass
    driver.create("clone", "image")
    driver.create("large", "image", size=64 * _MIB)
    driver.create("free", "image", size=0)
    assert project(driver, "image").id == project(driver, "free").id == 0
    assert writable(driver.path("clone")) < 4
    assert 40 < writable(driver.path("large")) < 64


def test_a_clone_that_is_larger_than_its_size_is_an_error(driver: Driver) -> None:
    with pytest.raises(CopyError) as caught:
        driver.create("clone", "base", size=3 * _MIB)
    assert caught.value.errno in FULL
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


def test_each_layer_has_a_project_and_free_ones_are_taken_again(driver: Driver) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = [f"clone-{number}" for number in range(16)]
        list(threads.map(lambda id: driver.create(id, "base", size=20 * _MIB), ids))
    projects = {project(driver, id).id for id in ids}
    assert len(projects) == len(ids)
    for id in ids:
        driver.remove(id)
    os.sync()
    folder = os.open(driver.home, os.O_RDONLY)
    try:  # XFS frees inodes behind
        while (used := next_project(folder, min(projects))) and used.inodes:
            os.sync()
    finally:
        os.close(folder)
    driver.create("next", "base", size=20 * _MIB)
    assert project(driver, "next").id == min(projects)


def test_a_clone_of_a_container_is_not_of_its_project(driver: Driver) -> None:
    driver.create("init", "base", size=20 * _MIB)
    driver.create("clone", "init", size=30 * _MIB)
    driver.create("image", "clone")
    assert project(driver, "init").id != project(driver, "clone").id
    assert project(driver, "image") == Project(0, is_inherited=False)
    assert 22 <= writable(driver.path("clone")) <= 25


def test_a_home_that_is_a_project_itself_is_refused(driver: Driver) -> None:
    folder = os.open(f"{driver.home}/tmp", os.O_RDONLY)
    try:
        set_project(folder, 42)
    finally:
        os.close(folder)
    with pytest.raises(QuotaError, match="project 42"):
        driver.create("clone", "base", size=20 * _MIB)
