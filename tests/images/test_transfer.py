"""Several blobs at once: what one raises ends them all, and nothing goes on behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from reflayer.images.content.transfer import StoppedError, Transfer
from reflayer.images.model.descriptor import Descriptor, digest_bytes

BLOBS = [Descriptor("", digest_bytes(bytes([n])), 10) for n in range(20)]
Told = Callable[[int], None]


class WrongError(Exception):
    pass


def test_all_are_done_and_told_of_by_one_at_a_time() -> None:
    done: list[str] = []
    told: list[int] = []
    busy = threading.Lock()

    def work(blob: Descriptor, progress: Told) -> None:
        progress(5)
        progress(10)
        done.append(blob.digest)

    def progress(stage: str, count: int, total: int | None) -> None:
        assert busy.acquire(blocking=False)
        assert (stage, total) == ("fetch", 200)
        told.append(count)
        busy.release()

    with Transfer("fetch", BLOBS, work, progress).running():
        pass
    assert sorted(done) == sorted(blob.digest for blob in BLOBS)
    assert told == sorted(told)
    assert told[-1] == 200


def test_what_one_raises_ends_those_that_wait_and_is_raised() -> None:
    begun: list[str] = []
    interrupted = threading.Event()

    def work(blob: Descriptor, told: Told) -> None:
        begun.append(blob.digest)
        if len(begun) == 4:
            raise WrongError
        assert interrupted.wait(20)
        told(1)
        raise AssertionError("it was told to stop")

    with (
        pytest.raises(WrongError),
        Transfer("push", BLOBS, work, None, interrupted.set).running(),
    ):
        pass
    assert len(begun) == 4


def test_what_the_block_raises_ends_them_before_it_is_left() -> None:
    at_work = threading.Semaphore(0)
    ended: list[type[BaseException]] = []
    interrupted = threading.Event()

    def work(_: Descriptor, told: Told) -> None:
        at_work.release()
        assert interrupted.wait(20)
        try:
            told(1)
        except BaseException as error:
            ended.append(type(error))
            raise

    def fail() -> None:
        for _ in range(4):
            assert at_work.acquire(timeout=60)
        raise WrongError

    transfer = Transfer("fetch", BLOBS, work, None, interrupted.set)
    with pytest.raises(WrongError), transfer.running():
        fail()
    assert ended == [StoppedError] * 4


def test_who_waits_for_one_is_told_that_another_failed() -> None:
    def work(*_: object) -> None:
        raise WrongError

    transfer = Transfer("fetch", BLOBS, work, None)
    with pytest.raises(WrongError), transfer.running():
        transfer.wait(lambda: False)


def test_what_progress_raises_ends_them() -> None:
    def progress(*_: object) -> None:
        raise WrongError

    with (
        pytest.raises(WrongError),
        Transfer("fetch", BLOBS, lambda _, told: told(1), progress).running(),
    ):
        pass
