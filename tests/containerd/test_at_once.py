"""Many requests at once, clients that go away, and who comes first."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from tests.containerd.served import Served, code, snapshots_stub, until
from tests.trees import assert_same, facts

OPTIONS = ("--spares=0",)  # a clone that is ready cannot be met
FOLDERS, FILES = 50, 120  # enough that a clone of it can be met while it is being made


@pytest.fixture
def service(lasting_service: Served, request: pytest.FixtureRequest) -> Served:
    """The service, without a snapshot but ``large``, where the test wants that."""
    if not lasting_service.is_running:
        lasting_service.start(*OPTIONS)
    lasting_service.empty(*({"large"} & set(request.fixturenames)))
    return lasting_service


@pytest.fixture
def large(service: Served) -> Path:
    """The folder of the committed snapshot ``large``, whose clones take a while."""
    if service.names():
        folder = service.view("look", "large")
        service.remove("look")
        return folder
    folder = service.prepare("large-key")
    for number in range(FOLDERS):
        (folder / str(number)).mkdir()
        for file in range(FILES):
            (folder / str(number) / str(file)).write_text("content")
    service.commit("large", "large-key")
    return folder


def begun(service: Served, stub: Any, key: str) -> Any:
    """A Prepare of a clone of ``large`` that is being made."""
    call = stub.Prepare.future(messages.PrepareSnapshotRequest(key=key, parent="large"))
    until(lambda: any(os.listdir(service.home / "tmp")) or call.done())
    assert not call.done(), "the clone was too fast to be met"
    return call


def cancel(service: Served) -> None:
    call = begun(service, service.stub, "a")
    call.cancel()


def go_away(service: Served) -> None:
    with grpc.insecure_channel(f"unix:{service.socket}") as channel:
        begun(service, snapshots_stub(channel), "a")


def be_impatient(service: Served) -> None:
    request = messages.PrepareSnapshotRequest(key="a", parent="large")
    with pytest.raises(grpc.RpcError) as late:
        service.stub.Prepare(request, timeout=0.05)
    assert code(late.value) is grpc.StatusCode.DEADLINE_EXCEEDED


def test_64_clients_at_once_are_served(service: Served) -> None:
    def work(number: int) -> None:
        folder = service.prepare(f"key-{number}")
        (folder / "file").write_text(str(number))
        service.commit(f"base-{number}", f"key-{number}")
        clone = service.prepare(f"clone-{number}", f"base-{number}")
        assert (clone / "file").read_text() == str(number)
        assert service.view(f"view-{number}", f"base-{number}") == folder
        assert service.stat(f"clone-{number}").parent == f"base-{number}"
        assert f"clone-{number}" in service.names(f"parent==base-{number}")
        service.update(f"clone-{number}", one=str(number))
        for name in ("view", "clone", "base"):
            service.remove(f"{name}-{number}")

    with ThreadPoolExecutor(64) as clients:
        list(clients.map(work, range(64)))
    assert service.names() == []
    assert service.folders() == set()
    service.cleanup()
    assert service.leftovers() == []


@pytest.mark.parametrize("leave", [cancel, go_away, be_impatient])
@pytest.mark.usefixtures("large")
def test_a_client_that_leaves_during_a_prepare_leaves_nothing(
    service: Served, leave: Callable[[Served], None]
) -> None:
    leave(service)
    until(lambda: not service.leftovers())
    assert service.names() == ["large"]
    assert len(service.folders()) == 1
    service.prepare("a", "large")


def test_a_client_that_leaves_while_it_waits_leaves_nothing(service: Served, large: Path) -> None:
    ahead = [begun(service, service.stub, f"ahead-{number}") for number in range(4)]
    behind = service.stub.Prepare.future(messages.PrepareSnapshotRequest(key="b", parent="large"))
    behind.cancel()
    for call in ahead:
        call.result()
    until(lambda: not service.leftovers())
    assert "b" not in service.names()
    assert len(service.folders()) == 5
    assert large.name in service.folders()


def outcome(call: Callable[[], object]) -> grpc.StatusCode:
    """How the service answers it."""
    try:
        call()
    except grpc.RpcError as error:
        return code(error)
    return grpc.StatusCode.OK


@pytest.mark.parametrize("parent", ["", "large"])
@pytest.mark.usefixtures("large")
def test_of_many_who_want_one_key_one_gets_it(service: Served, parent: str) -> None:
    def prepare(_: int) -> grpc.StatusCode:
        return outcome(lambda: service.prepare("a", parent))

    with ThreadPoolExecutor(8) as clients:
        answers = Counter(clients.map(prepare, range(8)))
    assert answers == {grpc.StatusCode.OK: 1, grpc.StatusCode.ALREADY_EXISTS: 7}
    assert len(service.folders()) == 2


def test_what_is_being_cloned_is_not_removed(service: Served, large: Path) -> None:
    call = begun(service, service.stub, "a")
    with pytest.raises(grpc.RpcError) as refused:
        service.remove("large")
    assert code(refused.value) is grpc.StatusCode.FAILED_PRECONDITION
    (mount,) = call.result().mounts
    assert_same(facts(large), facts(Path(mount.source)))


@pytest.mark.usefixtures("large")
def test_short_requests_do_not_wait_for_clones(service: Served) -> None:
    calls = [begun(service, service.stub, "0")]
    for number in range(1, 4):
        request = messages.PrepareSnapshotRequest(key=str(number), parent="large")
        calls.append(service.stub.Prepare.future(request))
    service.stat("large")
    service.prepare("empty")
    service.view("view", "large")
    service.remove("view")  # no commit: that waits for the disk, which is busy with the clones
    assert not all(call.done() for call in calls)
    for call in calls:
        call.result()


@pytest.mark.usefixtures("large")
def test_a_stop_finishes_what_runs(service: Served) -> None:
    call = begun(service, service.stub, "a")
    os.kill(service.pid, signal.SIGTERM)
    (mount,) = call.result().mounts
    assert len(os.listdir(mount.source)) == FOLDERS
    assert service.ended() == 0
    service.start()
    assert service.names() == ["a", "large"]


def test_usage_of_what_is_removed_meanwhile_is_an_answer(service: Served, large: Path) -> None:
    service.prepare("a", "large")
    more = large / "more"
    more.write_text("so that it has to be compared")

    def usage(_: int) -> grpc.StatusCode:
        return outcome(lambda: service.usage("a"))

    with ThreadPoolExecutor(4) as clients:
        answers = clients.map(usage, range(8))
        time.sleep(0.02)
        service.remove("a")
        assert set(answers) <= {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}
    more.unlink()


def test_of_many_who_commit_one_key_one_does(service: Served) -> None:
    service.prepare("a")

    def commit(number: int) -> grpc.StatusCode:
        return outcome(lambda: service.commit(f"base-{number}", "a"))

    with ThreadPoolExecutor(8) as clients:
        answers = Counter(clients.map(commit, range(8)))
    assert answers == {grpc.StatusCode.OK: 1, grpc.StatusCode.NOT_FOUND: 7}
    assert len(service.names()) == 1


def test_who_leaves_during_a_list_does_not_hold_up_a_stop(service: Served) -> None:
    for number in range(150):
        service.view(f"{number}", one="x" * (1 << 17))
    listed = service.stub.List(messages.ListSnapshotsRequest())
    assert next(listed).info
    listed.cancel()
    os.kill(service.pid, signal.SIGTERM)
    assert service.ended() == 0
