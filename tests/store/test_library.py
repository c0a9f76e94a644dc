"""The library as a program uses it: paths, containers in a ``with`` statement, wrong arguments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import reflayer
from reflayer import ConfigChanges, ReflayerError, Store
from reflayer.errors import ImageError, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", ownership="ignore")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """``rootfs:`` of a folder."""
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    return Path(f"rootfs:{tmp_path}/tree")


def test_a_store_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFLAYER_ROOT", f"{tmp_path}/there")
    assert Store().root == f"{tmp_path}/there"
    assert Store(tmp_path / "here").root == f"{tmp_path}/here"
    monkeypatch.setenv("REFLAYER_ROOT", "")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Store().root == "/home/somebody/.local/share/reflayer"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Store().root == "/data/reflayer"


@pytest.mark.parametrize("root", ["", b"", Path()])
def test_a_store_has_a_path(root: str | bytes | Path) -> None:
    if root == Path():
        assert Store(root).root == os.getcwd()
        return
    with pytest.raises(ValueError, match="empty"):
        Store(root)


def test_a_store_remembers_whether_owners_are_kept(store: Store, image: Path) -> None:
    def remembered() -> str:
        return Store(store.root).ownership

    assert remembered() == "keep"
    with pytest.raises(ReflayerError):
        store.create("rootfs:/nowhere")
    assert remembered() == "keep"
    store.create(image, name="web")
    assert remembered() == "ignore"
    Store(store.root).commit("web", "app")
    assert remembered() == "ignore"
    Store(store.root, ownership="keep").commit("web", "app")
    assert remembered() == "keep"


def test_a_container_is_removed_at_the_end_of_its_block(store: Store, image: Path) -> None:
    with store.create(image, name="web") as container:
        assert Path(container.path, "etc/passwd").exists()
        assert store.containers() == [container]
    assert store.containers() == []
    assert not os.path.exists(container.path)
    with pytest.raises(ZeroDivisionError), store.create(image):
        raise ZeroDivisionError
    assert store.containers() == []


def test_a_block_may_remove_its_container_itself(store: Store, image: Path) -> None:
    with store.create(image, name="web"), store.container("web") as same:
        store.remove_container(same.id)
    assert store.containers() == []


def test_a_path_is_taken_for_no_name(store: Store, tmp_path: Path) -> None:
    for path in (tmp_path / "tree", Path("debian"), Path("some/folder")):
        with pytest.raises(ImageError, match="is a path, not an image's name: say which it is by"):
            store.create(path)
        with pytest.raises(ImageError, match="is a path, not an image's name: say which it is by"):
            store.pull(path)


def test_an_image_is_saved_to_a_path(store: Store, image: Path, tmp_path: Path) -> None:
    store.create(image)
    store.save(str(image), Path(f"oci:{tmp_path}/out:made"))
    assert (tmp_path / "out/oci-layout").exists()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"cmd": "sh -c ls"}, "cmd is the text 'sh -c ls'"),
        ({"entrypoint": "/bin/sh"}, "entrypoint is the text"),
        ({"expose": "80"}, "expose is the text"),
        ({"volumes": "/data"}, "volumes is the text"),
        ({"user": 1000}, "user is 1000, which is no text"),
        ({"workdir": Path("/x")}, "workdir is .*, which is no text"),
        ({"stop_signal": 9}, "stop_signal is 9, which is no text"),
        ({"cmd": ["sleep", 5]}, "cmd has 5 in it"),
        ({"expose": [80]}, "expose has 80 in it"),
        ({"cmd": b"ls"}, "cmd has 108 in it"),
        ({"env": ["A=b"]}, "env is "),
        ({"env": {"A": 1}}, "env has 1 in it"),
        ({"labels": {1: "a"}}, "labels has 1 in it"),
    ],
)
def test_changes_that_are_of_another_type_are_refused(
    wrong: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        ConfigChanges(**wrong)  # type: ignore[arg-type]


def test_paths_are_told_as_texts(store: Store, image: Path) -> None:
    container = store.create(image, name="web")
    odd = os.fsdecode(b"new\xff")
    Path(container.path, odd).touch()
    assert [change.path for change in store.changes("web")] == [f"/{odd}"]
    with pytest.raises(ReflayerError) as caught:
        reflayer.copy_tree(f"/nowhere/{odd}", store.root)
    assert caught.value.path == f"/nowhere/{odd}"  # type: ignore[attr-defined]


def test_what_is_almost_a_name_is_told(store: Store, image: Path) -> None:
    store.create(image, name="webserver")
    store.tag(str(image), "team/app:1")
    for ask in (store.container, store.remove_container, store.changes):
        with pytest.raises(StoreError, match="no such container: did you mean webserver"):
            ask("webservre")
    with pytest.raises(StoreError, match="no such image in the store: did you mean team/app:1"):
        store.remove_image("team/ap:1")
    for text, meant in (("websever", "webserver"), ("taem/app:1", "team/app:1")):
        with pytest.raises(
            StoreError, match=f"{text}: no such container or image: did you mean {meant}"
        ):
            store.usage(text)
    with pytest.raises(StoreError, match="reflayer ps and reflayer images list them"):
        store.usage("zzzzzz")


def test_who_names_a_container_for_an_image_is_told(store: Store, image: Path) -> None:
    store.create(image, name="web")
    store.tag(str(image), "localhost:1/app:1")
    with pytest.raises(StoreError, match="web: no such image in the store, but a container: "):
        store.remove_image("web")
    with pytest.raises(StoreError, match="app:1: no such container, but an image: "):
        store.remove_container("localhost:1/app:1")
    with pytest.raises(
        ImageError, match=r"did you mean localhost:1/app:1, which is in the store\?"
    ):
        store.create("localhost:1/ap:1")


def test_a_tag_is_one_more_name(store: Store, image: Path) -> None:
    store.create(image)
    (known,) = store.images()
    assert store.tag(str(image), "app").names == ("docker.io/library/app:latest", str(image))
    assert store.tag("app", "localhost:5000/app:1").id == known.id
    assert store.remove_image("app") is None
    assert store.remove_image(str(image)) is None
    with store.create("localhost:5000/app:1", pull="never") as container:
        assert container.image_id == known.id
    for wrong in ("oci:/somewhere", "No Name", "app@sha256:" + "0" * 64):
        with pytest.raises(ImageError):
            store.tag("localhost:5000/app:1", wrong)
    with pytest.raises(StoreError):
        store.tag("nothing", "app")


def test_a_tag_that_moves_takes_the_old_image_with_it_where_nobody_uses_it(
    store: Store, image: Path, tmp_path: Path
) -> None:
    other = f"rootfs:{tmp_path}/tree/etc"
    for made, name in ((image, "app:1"), (other, "app:2")):
        with store.create(made) as container:
            store.tag(container.image_id, name)
        store.remove_image(str(made))
    assert len(store.images()) == 2
    store.tag("app:1", "app:2")
    (left,) = store.images()
    assert left.names == ("docker.io/library/app:1", "docker.io/library/app:2")


def test_an_images_config_says_how_it_runs(store: Store, image: Path) -> None:
    store.create(image, name="web")
    assert store.image_config(str(image))["config"] == {}
    changes = ConfigChanges(cmd=["nginx", "-g", "daemon off;"], env={"A": "b"}, user="7")
    store.commit("web", "app", changes=changes)
    assert store.image_config("app")["config"] == {
        "Cmd": ["nginx", "-g", "daemon off;"],
        "Env": ["A=b"],
        "User": "7",
    }
