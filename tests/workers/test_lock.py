"""Locks between processes: held while the block runs, and of no use to the dead."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reflayer.errors import OperationError
from reflayer.workers import behind
from reflayer.workers.lock import abandoned, claim, claim_new, locked, open_locked

_HOLD = """
import sys
from reflayer.workers.lock import claim, locked
with locked(sys.argv[1] + "/lock"):
    held = claim(sys.argv[1] + "/claimed")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A process that holds the lock ``lock`` and a claim on the name ``claimed``."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def test_a_lock_is_held_until_its_process_dies(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    lock = str(tmp_path / "lock")
    for shared in (False, True):
        with locked(lock, shared=shared, wait=False) as is_had:
            assert not is_had
    kill(holder)
    with locked(lock, wait=False) as is_had:
        assert is_had


def test_a_shared_lock_is_held_together_and_by_nobody_else(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    with locked(lock, shared=True), locked(lock, shared=True, wait=False) as is_had:
        assert is_had
        with locked(lock, wait=False) as is_had_alone:
            assert not is_had_alone


def test_the_holder_may_unlink_the_file_and_who_waits_makes_it_anew(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    had: list[bool] = []

    def wait_for_it() -> None:
        with locked(str(lock)):
            had.append(lock.exists())

    with locked(str(lock)):
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        lock.unlink()
    thread.join()
    assert had == [True]


def test_a_lock_file_is_never_followed_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperationError, match="lock: lock: "), locked(str(tmp_path / "lock")):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_only_what_the_dead_had_claimed_is_abandoned(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "lock").unlink()
    (tmp_path / "without a lock file").touch()
    (tmp_path / ".nfs0001").touch()
    mine = claim_new(str(tmp_path), "mine")
    there = str(tmp_path / "claimed")
    assert claim(there) is None
    assert list(abandoned(str(tmp_path))) == [(str(tmp_path / "without a lock file"), False)]
    kill(holder)
    assert sorted(abandoned(str(tmp_path))) == [
        (there, True),
        (str(tmp_path / "without a lock file"), False),
    ]
    assert not os.path.lexists(f"{there}.lock")
    assert os.path.exists(f"{mine.path}.lock")
    mine.release()
    assert not os.path.lexists(f"{mine.path}.lock")


def test_a_claim_in_a_folder_that_is_gone_is_an_error_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="gone/name: lock: ") as raised:
        claim(str(tmp_path / "gone/name"))
    assert raised.value.errno == errno.ENOENT


def test_what_is_started_behind_never_has_a_lock_but_its_own(tmp_path: Path) -> None:
    held, turn = (open_locked(str(tmp_path / name)) for name in ("held", "turn"))
    assert held is not None
    assert turn is not None
    os.set_inheritable(held, True)  # as those are for a moment that exec(2) has yet to close
    behind.start("operator", "eq", str(tmp_path), turn)
    os.close(held)
    with locked(str(tmp_path / "held"), wait=False) as is_had:
        assert is_had
    with locked(str(tmp_path / "turn")):  # it has ended
        pass
