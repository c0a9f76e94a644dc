"""Snapshots, from prepared to removed, by containerd's rules."""

from __future__ import annotations

import os
import time
from pathlib import Path

import grpc
import pytest

from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from tests.containerd.served import Served, code, until
from tests.trees import assert_same, facts

ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.fixture
def service(lasting_service: Served) -> Served:
    """The service, without a snapshot."""
    lasting_service.empty()
    return lasting_service


def fill(folder: Path) -> None:
    """Write what a layer might hold."""
    (folder / "etc").mkdir()
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
    os.link(folder / "etc/hosts", folder / "hosts")
    os.symlink("etc", folder / "link")
    os.utime(folder / "etc", ns=(1, 1))


def layer(service: Served, name: str, parent: str = "") -> Path:
    """A committed snapshot with something in it; its folder."""
    folder = service.prepare(f"{name}-key", parent)
    (folder / name).write_text(name)
    service.commit(name, f"{name}-key")
    return folder


def test_an_active_snapshot_is_the_same_tree_as_its_parent(service_anywhere: Served) -> None:
    service = service_anywhere
    parent = service.prepare("a")
    fill(parent)
    service.commit("base", "a")
    clone = service.prepare("b", "base")
    assert clone != parent
    assert_same(facts(parent), facts(clone))
    (clone / "etc/hosts").write_text("changed")
    assert (parent / "etc/hosts").read_text() == "127.0.0.1 localhost\n"


def test_a_snapshot_without_a_parent_is_an_empty_folder_of_mode_0755(service: Served) -> None:
    for folder in (service.prepare("active"), service.view("view")):
        assert os.listdir(folder) == []
        assert folder.stat().st_mode & 0o7777 == 0o755


def test_a_commit_keeps_the_folder(service: Served) -> None:
    folder = layer(service, "base")
    assert service.view("v", "base") == folder


def test_a_view_copies_nothing_and_leaves_its_parent(service: Served) -> None:
    folder = layer(service, "base")
    service.view("v", "base")
    assert service.folders() == {folder.name}
    service.remove("v")
    assert (folder / "base").read_text() == "base"


def test_mounts_are_told_again(service: Served) -> None:
    base = layer(service, "base")
    active, view = service.prepare("a", "base"), service.view("v", "base")
    for key, folder, access in (("a", active, "rw"), ("v", view, "ro")):
        (mount,) = service.mounts(key)
        assert (mount.type, mount.source, mount.target) == ("bind", str(folder), "")
        assert mount.options == ["rbind", access]
    assert view == base


_UIDS, _GIDS = "containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"


def test_the_mount_of_a_user_namespace_shows_its_owners(service: Served) -> None:
    layer(service, "base")
    labels = {_UIDS: "0:100000:65536,65536:7:1", _GIDS: "0:200000:65536"}
    asked = messages.PrepareSnapshotRequest(key="key", parent="base", labels=labels)
    [mount] = service.stub.Prepare(asked).mounts
    assert [mount] == list(service.mounts("key"))
    assert mount.type == "bind"
    assert set(mount.options) == {
        "rbind",
        "rw",
        "uidmap=0:100000:65536,65536:7:1",
        "gidmap=0:200000:65536",
    }
    assert os.stat(mount.source).st_uid == 0  # as on the disk


def test_who_has_given_the_files_their_owners_himself_gets_them_as_they_are(
    service: Served,
) -> None:
    layer(service, "base")
    own = service.prepare("own", "base")
    os.chown(own, 100000, 100000)
    service.commit("shifted", "own")
    labels = {_UIDS: "0:100000:65536", _GIDS: "0:100000:65536"}
    service.prepare("key", "shifted", **labels)
    assert set(service.mounts("key")[0].options) == {"rbind", "rw"}


@pytest.mark.parametrize("told", ["1:100000:65536", "0:100000", "much"])
def test_a_map_without_a_root_is_refused(service: Served, told: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        service.prepare("key", "", **{_UIDS: told, _GIDS: "0:100000:65536"})
    assert code(refused.value) is INVALID_ARGUMENT
    assert service.names() == []


def test_a_committed_snapshot_has_no_mounts(service: Served) -> None:
    layer(service, "base")
    with pytest.raises(grpc.RpcError) as refused:
        service.mounts("base")
    assert code(refused.value) is FAILED_PRECONDITION


def test_stat_tells_all_of_each_kind(service: Served) -> None:
    layer(service, "base")
    service.prepare("a", "base", one="1")
    service.view("v", "base")
    before = time.time_ns()
    base, active, view = map(service.stat, ("base", "a", "v"))
    assert (base.name, base.parent, base.kind) == ("base", "", messages.COMMITTED)
    assert (active.name, active.parent, active.kind) == ("a", "base", messages.ACTIVE)
    assert (view.name, view.parent, view.kind) == ("v", "base", messages.VIEW)
    assert dict(active.labels) == {"one": "1"}
    for info in (base, active, view):
        assert 0 < before - info.created_at.ToNanoseconds() < 60e9
        assert info.created_at == info.updated_at


def test_labels_of_a_commit_replace_those_of_the_active(service: Served) -> None:
    service.prepare("a", one="1", two="2")
    service.commit("base", "a", three="3")
    assert dict(service.stat("base").labels) == {"three": "3"}


def test_labels_of_remote_snapshotters_are_kept_and_change_nothing(service: Served) -> None:
    labels = {
        "containerd.io/snapshot.ref": "sha256:" + "0" * 64,
        "containerd.io/snapshot/cri.image-ref": "docker.io/library/busybox:latest",
        "containerd.io/gc.root": "2026-01-01T00:00:00Z",
    }
    service.prepare("extract", "", **labels)
    assert dict(service.stat("extract").labels) == labels
    assert service.names('labels."containerd.io/snapshot.ref"') == ["extract"]


def test_an_empty_label_is_none(service: Served) -> None:
    service.prepare("a", one="", two="2")
    assert dict(service.stat("a").labels) == {"two": "2"}


def test_update_changes_the_labels_that_are_named(service: Served) -> None:
    service.prepare("a", one="1", two="2")
    created = service.stat("a").created_at
    info = service.update("a", ["labels.one", "labels.two"], one="new", three="3")
    assert dict(info.labels) == {"one": "new"}
    assert info.created_at == created
    assert info.updated_at.ToNanoseconds() > created.ToNanoseconds()
    assert service.stat("a") == info


def test_a_label_with_dots_is_named_whole(service: Served) -> None:
    service.prepare("a")
    labels = {"containerd.io/gc.root": "now"}
    info = service.update("a", ["labels.containerd.io/gc.root"], **labels)
    assert dict(info.labels) == labels


@pytest.mark.parametrize("paths", [(), ("labels",)])
def test_update_without_a_name_replaces_all_labels(service: Served, paths: list[str]) -> None:
    service.prepare("a", one="1")
    assert dict(service.update("a", paths, two="2").labels) == {"two": "2"}


@pytest.mark.parametrize("path", ["parent", "kind", "name", "labelsx", "created_at"])
def test_update_of_anything_else_is_refused(service: Served, path: str) -> None:
    service.prepare("a", one="1")
    with pytest.raises(grpc.RpcError) as refused:
        service.update("a", ["labels", path], two="2")
    assert code(refused.value) is INVALID_ARGUMENT
    assert dict(service.stat("a").labels) == {"one": "1"}


def test_a_name_is_taken_whatever_it_is_of(service: Served) -> None:
    layer(service, "base")
    service.prepare("a")
    service.view("v")
    for taken in ("base", "a", "v"):
        for make in (service.prepare, service.view):
            with pytest.raises(grpc.RpcError) as refused:
                make(taken, "base")
            assert code(refused.value) is ALREADY_EXISTS
        with pytest.raises(grpc.RpcError) as refused:
            service.commit(taken, "a")
        assert code(refused.value) is ALREADY_EXISTS


def test_what_is_not_there_is_not_found(service: Served) -> None:
    service.prepare("a")
    for call in (
        lambda: service.prepare("b", "none"),
        lambda: service.view("b", "none"),
        lambda: service.mounts("none"),
        lambda: service.commit("base", "none"),
        lambda: service.commit("a", "none"),
        lambda: service.remove("none"),
        lambda: service.stat("none"),
        lambda: service.usage("none"),
        lambda: service.update("none"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert code(refused.value) is NOT_FOUND
    assert service.names() == ["a"]
    assert len(service.folders()) == 1


def test_only_a_committed_snapshot_can_be_a_parent(service: Served) -> None:
    service.prepare("a")
    service.view("v")
    for parent in ("a", "v"):
        for make in (service.prepare, service.view):
            with pytest.raises(grpc.RpcError) as refused:
                make("b", parent)
            assert code(refused.value) is INVALID_ARGUMENT


def test_only_an_active_snapshot_can_be_committed(service: Served) -> None:
    layer(service, "base")
    service.view("v", "base")
    for key in ("v", "base"):
        with pytest.raises(grpc.RpcError) as refused:
            service.commit("other", key)
        assert code(refused.value) is FAILED_PRECONDITION


def test_an_empty_name_is_refused(service: Served) -> None:
    service.prepare("a")
    for call in (
        lambda: service.prepare(""),
        lambda: service.view(""),
        lambda: service.commit("", "a"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert code(refused.value) is INVALID_ARGUMENT


def test_a_snapshot_with_children_is_not_removed(service: Served) -> None:
    layer(service, "base")
    layer(service, "top", "base")
    service.prepare("a", "top")
    service.view("v", "top")
    for parent in ("base", "top"):
        with pytest.raises(grpc.RpcError) as refused:
            service.remove(parent)
        assert code(refused.value) is FAILED_PRECONDITION
        assert "cannot remove" in str(refused.value)
    for name in ("v", "a", "top", "base"):
        service.remove(name)
    assert service.names() == []


def test_a_key_is_free_after_its_removal(service: Served) -> None:
    folder = service.prepare("a")
    (folder / "file").write_text("old")
    service.remove("a")
    assert os.listdir(service.prepare("a")) == []


def test_the_disk_comes_back(service: Served) -> None:
    def free() -> int:
        status = os.statvfs(service.home)
        return status.f_bfree * status.f_frsize

    folder = service.prepare("a")
    before = free()
    with open(folder / "file", "wb") as file:
        file.write(os.urandom(64 << 20))
        os.fsync(file)
    assert before - free() > 60 << 20
    service.remove("a")
    service.cleanup()
    until(lambda: not service.leftovers())
    until(lambda: before - free() < 1 << 20)  # XFS frees what is unlinked behind


def test_a_name_may_be_any_text(service: Served) -> None:
    names = ["k8s.io/12/one 1 sha256:ab", "../../etc", "a'b\"c;--", "ünïcode/☃", "x" * 5000]
    for name in names:
        service.prepare(name)
    assert service.names() == sorted(names, key=str.encode)
    for name in names:
        assert service.stat(name).name == name
    assert len(service.folders()) == len(names)


def test_a_chain_of_128_layers(service: Served) -> None:
    parent = ""
    for number in range(128):
        layer(service, f"layer-{number}", parent)
        parent = f"layer-{number}"
    assert len(os.listdir(service.prepare("top", parent))) == 128


def test_usage_counts_what_is_written(service: Served) -> None:
    folder = service.prepare("a")
    assert service.usage("a") == (0, 1)
    (folder / "file").write_bytes(os.urandom(1 << 20))
    os.sync()
    assert service.usage("a") == (1 << 20, 2)
    service.commit("base", "a")
    assert service.usage("base") == (1 << 20, 2)


def test_usage_does_not_count_what_is_the_parents(service: Served) -> None:
    (service.prepare("a") / "file").write_bytes(os.urandom(1 << 20))
    service.commit("base", "a")
    folder = service.prepare("b", "base")
    assert service.usage("b")[0] < 1 << 20
    (folder / "own").write_bytes(os.urandom(1 << 16))
    os.sync()
    assert 1 << 16 <= service.usage("b")[0] < 1 << 20


def test_a_view_takes_nothing(service: Served) -> None:
    layer(service, "base")
    service.view("v", "base")
    assert service.usage("v") == (0, 0)


def test_a_list_comes_in_small_messages(service: Served) -> None:
    for number in range(150):
        service.view(f"v-{number:03}")
    answers = list(service.stub.List(messages.ListSnapshotsRequest()))
    assert [len(answer.info) for answer in answers] == [100, 50]


def test_a_list_of_large_snapshots_does_not_make_large_messages(service: Served) -> None:
    for number in range(20):
        service.view(str(number), one="x" * (1 << 19))
    answers = list(service.stub.List(messages.ListSnapshotsRequest()))
    assert sum(len(answer.info) for answer in answers) == 20
    assert max(answer.ByteSize() for answer in answers) < 2 << 20


def test_a_list_filters(service: Served) -> None:
    layer(service, "base")
    service.prepare("a", "base", one="1")
    service.view("v", "base")
    assert service.names() == ["a", "base", "v"]
    assert service.names("kind==view", "labels.one==1") == ["a", "v"]
    with pytest.raises(grpc.RpcError) as refused:
        service.names("kind==view,")
    assert code(refused.value) is INVALID_ARGUMENT


def test_the_snapshotters_name_and_the_namespace_do_not_matter(service: Served) -> None:
    request = messages.PrepareSnapshotRequest(snapshotter="anything", key="default/1/a")
    service.stub.Prepare(request, metadata=[("containerd-namespace", "default")])
    assert service.names() == ["default/1/a"]
