"""Images go into registries: what others then have is the same tree, and little is sent twice."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import ReflayerError
from reflayer.images.registry import Access, Credentials
from tests.file_systems import require, require_root
from tests.registry.registries import PASSWORD, USER, Registry
from tests.registry.silly import Answer, Silly, serving
from tests.registry.test_secrets import shut
from tests.store.stores import BASE, MORE, MOST, assert_clean, image, reflayer
from tests.trees import assert_same, facts


def test_skopeo_and_umoci_have_the_same_tree(base: Path, root: Path, registry: Registry) -> None:
    require_root()  # without it umoci has attributes of its own
    require("skopeo", "umoci")
    store = Store(root)
    container = store.create(image(base / "image", BASE, MORE, MOST))
    pushed = store.push(container.image, f"{registry.host}/out/x:1")
    name = f"docker://{registry.host}/out/x:1"
    inspect = ["skopeo", "inspect", "--tls-verify=false", name]
    told = json.loads(subprocess.run(inspect, check=True, capture_output=True).stdout)
    assert told["Digest"] == pushed.digest
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", name, f"oci:{base}/theirs:1"]
    subprocess.run(copy, check=True, capture_output=True)
    unpack = ["umoci", "unpack", "--image", f"{base}/theirs:1", f"{base}/bundle"]
    subprocess.run(unpack, check=True, capture_output=True)
    theirs = facts(base / "bundle/rootfs", atime=False)
    assert_same(facts(Path(container.path), atime=False), theirs)
    assert_clean(root)


def test_layers_go_out_as_the_bytes_that_came_in(
    base: Path, root: Path, registry: Registry
) -> None:
    layout = base / "image"
    store = Store(root)
    made = store.create(image(layout, BASE, MORE))
    store.push(made.image, f"{registry.host}/bytes/x")
    back = Store(base / "other")
    assert back.pull(f"{registry.host}/bytes/x").id == made.image_id
    theirs = {one.name for one in (layout / "blobs/sha256").iterdir()}
    ours = {one.name for one in (base / "other/content/blobs/sha256").iterdir()}
    assert len(ours & theirs) == 4  # both layers, the config and the manifest


def test_a_folder_can_be_pushed(base: Path, root: Path, registry: Registry) -> None:
    folder = base / "folder"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/name").write_text("value")
    (folder / "link").symlink_to("etc/name")
    store = Store(root)
    made = store.create(f"rootfs:{folder}")
    store.push(f"rootfs:{folder}", f"{registry.host}/folder")
    back = Store(base / "other").create(f"{registry.host}/folder")
    assert_same(facts(Path(back.path), atime=False), facts(Path(made.path), atime=False))
    assert_clean(root)


def test_what_is_there_is_not_sent_again(base: Path, root: Path, registry: Registry) -> None:
    store = Store(root)
    made = store.create(image(base / "image", BASE, MORE)).image
    store.push(made, f"{registry.host}/again/x:1")
    before = len(registry.requests("POST /v2/again"))
    assert before == 3
    store.push(made, f"{registry.host}/again/x:2")
    assert len(registry.requests("POST /v2/again")) == before


def test_blobs_of_another_repository_are_mounted(
    base: Path, root: Path, registry: Registry
) -> None:
    first = Store(base / "first")
    made = first.create(image(base / "image", BASE, MORE)).image
    first.push(made, f"{registry.host}/mount/from:1")
    store = Store(root)
    store.pull(f"{registry.host}/mount/from:1")
    store.push(f"{registry.host}/mount/from:1", f"{registry.host}/mount/to:1")
    mounted = registry.requests("POST /v2/mount/to/blobs/uploads/?mount=")
    assert len(mounted) == 3
    assert all(" 201 " in line for line in mounted)
    assert registry.requests("PUT /v2/mount/to/blobs") == []
    assert registry.requests("PATCH /v2/mount/to/blobs") == []
    Store(base / "third").pull(f"{registry.host}/mount/to:1")


@pytest.mark.parametrize("status", [400, 401, 403, 405, 501])
def test_who_does_not_tell_what_is_there_is_sent_it(root: Path, silly: Silly, status: int) -> None:
    silly.image(BASE)
    store = Store(root)
    store.pull(f"{silly.host}/from")
    silly.always("HEAD", "/v2/to/", Answer(status))
    store.push(f"{silly.host}/from", f"{silly.host}/to")
    assert len(silly.taken) == 2


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 405, 500, 501])
def test_a_blob_that_may_not_be_mounted_is_sent(root: Path, silly: Silly, status: int) -> None:
    silly.image(BASE)
    store = Store(root)
    store.pull(f"{silly.host}/from")
    silly.always("HEAD", "/v2/to/", Answer(404))
    silly.handlers.append(lambda request: Answer(status) if "mount=" in request.query else None)
    store.push(f"{silly.host}/from", f"{silly.host}/to")
    assert len(silly.taken) == 2
    assert len(silly.seen("POST", "/v2/to/")) == 4


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
def test_a_busy_registry_is_tried_again(base: Path, root: Path, silly: Silly, method: str) -> None:
    store = Store(root)
    made = store.create(image(base / "image", BASE)).image
    silly.on(method, "/v2/x/", *[Answer(429, headers={"Retry-After": text}) for text in "02"])
    told: list[str] = []
    store.push(made, f"{silly.host}/x", warn=told.append)
    assert len(silly.taken) == 2
    assert [line.partition(": 429 ")[2] for line in told] == [
        "Too Many Requests: once more in 2 seconds"
    ]


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("POST", Answer(202), "does not say where to"),
        ("POST", Answer(403), "does not take the blob .*: 403 Forbidden"),
        ("PUT", Answer(400, body=b'{"errors": [{"code": "DIGEST_INVALID"}]}'), "DIGEST_INVALID"),
        ("PUT", Answer(201, headers={"Docker-Content-Digest": "sha256:0"}), "another manifest"),
        ("POST", Answer(202, headers={"Location": "ftp://x/"}), "none of HTTP"),
    ],
)
def test_a_registry_that_does_not_take_it_is_one_line(
    base: Path, root: Path, silly: Silly, method: str, answer: Answer, message: str
) -> None:
    store = Store(root)
    made = store.create(image(base / "image", BASE)).image
    silly.always(method, "", answer)
    with pytest.raises(ReflayerError, match=message) as caught:
        store.push(made, f"{silly.host}/x")
    assert str(caught.value).isprintable()
    assert_clean(root)


def test_an_upload_elsewhere_takes_no_credentials_along(
    base: Path, root: Path, silly: Silly
) -> None:
    store = Store(root)
    made = store.create(image(base / "image", BASE)).image
    shut(silly)
    with serving(Silly()) as elsewhere:
        elsewhere.always("PUT", "/up", Answer(201))
        there = {"Location": f"http://{elsewhere.host}/up"}
        silly.always("POST", "/uploads/", Answer(202, headers=there))
        access = Access(credentials=Credentials(USER, PASSWORD))
        store.push(made, f"{silly.host}/x", access=access)
        assert len(elsewhere.requests) == 2
        assert not any("authorization" in one.headers for one in elsewhere.requests)


def test_a_digest_is_that_of_the_image(base: Path, root: Path, registry: Registry) -> None:
    store = Store(root)
    made = store.create(image(base / "image", BASE)).image
    there = store.push(made, f"{registry.host}/digest")
    store.push(made, f"{registry.host}/digest@{there.digest}")
    other = f"{registry.host}/digest@sha256:{'0' * 64}"
    with pytest.raises(ReflayerError, match=f"the image has another digest: {there.digest}"):
        store.push(made, other)


def test_what_is_not_there_or_no_registry_is_refused(root: Path) -> None:
    done = reflayer(root, "push", "none", "localhost:1/x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "none: no such image in the store" in done.stderr
    assert not root.exists()


def test_the_commands_print_what_a_script_wants(base: Path, root: Path, registry: Registry) -> None:
    made = image(base / "image", BASE)
    assert reflayer(root, "create", made).returncode == 0
    pushed = reflayer(root, "push", made, f"docker://{registry.host}/commands/x:1")
    assert (pushed.returncode, pushed.stderr) == (0, "")
    digest = pushed.stdout.strip()
    other = base / "other"
    pulled = reflayer(other, "pull", f"{registry.host}/commands/x@{digest}")
    assert (pulled.returncode, pulled.stderr) == (0, "")
    told = reflayer(other, "pull", "--json", f"{registry.host}/commands/x:1")
    fields = json.loads(told.stdout)
    assert fields["id"] == pulled.stdout.strip()
    assert len(fields["names"]) == 2
    created = reflayer(other, "create", "--pull", "never", f"{registry.host}/commands/x:1")
    assert Path(created.stdout.strip(), "bin/sh").exists()


def test_what_changed_in_a_container_goes_to_another_store_and_to_umoci(
    base: Path, root: Path, registry: Registry
) -> None:
    require_root()  # without it umoci has attributes of its own
    require("skopeo", "umoci")
    store = Store(root)
    container = store.create(image(base / "image", BASE, MORE))
    top = Path(container.path)
    (top / "etc/new").unlink()
    (top / "etc/passwd").write_text("other\n")
    (top / "bin/link").hardlink_to(top / "bin/sh")
    (top / "made").mkdir(mode=0o700)
    (top / "made/sticky").write_bytes(bytes(5000))
    (top / "made/sticky").chmod(0o4711)
    (top / "made/points").symlink_to("nowhere")
    os.mkfifo(top / "made/fifo")
    store.commit(container.name, "app")
    store.push("app", f"{registry.host}/trip/app:1")
    other = Store(base / "other").create(f"{registry.host}/trip/app:1")
    ours = facts(top, atime=False)
    assert_same(facts(Path(other.path), atime=False), ours)
    name = f"docker://{registry.host}/trip/app:1"
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", name, f"oci:{base}/theirs:1"]
    subprocess.run(copy, check=True, capture_output=True)
    unpack = ["umoci", "unpack", "--image", f"{base}/theirs:1", f"{base}/bundle"]
    subprocess.run(unpack, check=True, capture_output=True)
    assert_same(facts(base / "bundle/rootfs", atime=False), ours)
