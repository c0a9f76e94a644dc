"""Driver calls run beside the event loop, in turn, and leave nothing when nobody waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.errors import LayerError
from reflayer.plugins.service import Cancelled, Work
from tests.plugins.daemons import fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.progress import Progress


@pytest.fixture
def work() -> Iterator[Work]:
    one = Work(copies=2)
    yield one
    one.close()


class Held:
    """Copies that run until they are let go."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.most = self._now = 0
        self._changed = threading.Condition()
        self._free = threading.Event()

    def copy(self, name: object, progress: Progress) -> object:
        """Run until ``release``, or until ``progress`` stops it."""
        with self._changed:
            self.begun.append(name)
            self._now += 1
            self.most = max(self.most, self._now)
            self._changed.notify_all()
        try:
            while not self._free.wait(0.001):
                progress("clone", 0, None)
        finally:
            with self._changed:
                self._now -= 1
        return name

    def wait_until_begun(self, count: int) -> None:
        """Return when so many have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, 60)

    def release(self) -> None:
        """Let all end."""
        self._free.set()


def test_a_call_returns_what_it_returns_and_raises_what_it_raises(
    work: Work, tmp_path: Path
) -> None:
    driver = Driver(tmp_path)

    async def use() -> None:
        assert await work.run(driver.exists, "layer") is False
        with pytest.raises(LayerError, match="there is no layer layer"):
            await work.run(driver.get, "layer")
        assert await work.copy(lambda progress: driver.create("layer", progress=progress)) is None
        assert await work.run(driver.get, "layer") == str(tmp_path / "dir/layer")

    asyncio.run(use())


def test_sixty_four_requests_are_answered_while_copies_and_streams_run(work: Work) -> None:
    held = Held()

    async def use() -> None:
        copies = [asyncio.ensure_future(work.copy(partial(held.copy, n))) for n in range(4)]
        streams = [asyncio.ensure_future(work.stream(partial(held.copy, n))) for n in range(62)]
        await asyncio.to_thread(held.wait_until_begun, 64)  # two of the copies wait for their turn
        assert await asyncio.gather(*(work.run(abs, -n) for n in range(64))) == list(range(64))
        assert not any(one.done() for one in copies + streams)
        held.release()
        assert await asyncio.gather(*copies) == list(range(4))
        await asyncio.gather(*streams)

    asyncio.run(use())


def test_copies_run_in_the_order_they_came_and_not_all_at_once(work: Work) -> None:
    held = Held()

    async def use() -> None:
        copies = [asyncio.ensure_future(work.copy(partial(held.copy, n))) for n in range(20)]
        await asyncio.to_thread(held.wait_until_begun, 2)
        held.release()
        await asyncio.gather(*copies)

    asyncio.run(use())
    assert held.most == 2
    assert sorted(held.begun[:2], key=str) == [0, 1]
    assert all(abs(n - place) <= 1 for place, n in enumerate(held.begun) if isinstance(n, int))


def test_a_cancelled_copy_that_waits_for_its_turn_never_begins(work: Work) -> None:
    held = Held()

    async def use() -> None:
        first = [asyncio.ensure_future(work.copy(partial(held.copy, n))) for n in range(2)]
        await asyncio.to_thread(held.wait_until_begun, 2)
        third = asyncio.ensure_future(work.copy(partial(held.copy, "third")))
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.wait([third])
        assert third.cancelled()
        held.release()
        await asyncio.gather(*first)
        await work.copy(partial(held.copy, "fourth"))

    asyncio.run(use())
    assert "third" not in held.begun
    assert "fourth" in held.begun


@pytest.mark.parametrize("kind", ["copy", "stream"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_call_is_told_and_awaited(work: Work, kind: str, times: int) -> None:
    held, steps = Held(), []

    def call(progress: Progress) -> None:
        try:
            held.copy("call", progress)
        except Cancelled:
            steps.append("undone")
            raise

    async def use() -> None:
        task = asyncio.ensure_future(getattr(work, kind)(call))
        await asyncio.to_thread(held.wait_until_begun, 1)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        steps.append("returned")
        assert task.cancelled()

    asyncio.run(use())
    assert steps == ["undone", "returned"]


def test_a_cancelled_short_call_is_awaited(work: Work) -> None:
    begun, free, steps = threading.Event(), threading.Event(), []

    def call() -> None:
        begun.set()
        free.wait(60)
        steps.append("ended")

    async def use() -> None:
        task = asyncio.ensure_future(work.run(call))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        free.set()
        await asyncio.wait([task])
        steps.append("returned")
        assert task.cancelled()

    asyncio.run(use())
    assert steps == ["ended", "returned"]


def test_a_clone_whose_client_goes_away_leaves_nothing(
    work: Work, place_on: Callable[[str], Path]
) -> None:
    home = place_on("tmpfs")
    driver = Driver(home, method="stream")
    for part in range(10):
        fill(home / f"dir/source/{part}")
    begun = threading.Event()

    def clone(progress: Progress) -> None:
        def telling(stage: str, done: int, total: int | None) -> None:
            begun.set()
            progress(stage, done, total)

        driver.create("clone", "source", progress=telling)

    async def use() -> None:
        task = asyncio.ensure_future(work.copy(clone))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert driver.list() == ["source"]
        assert not list((home / "tmp").iterdir())
        await work.copy(lambda _: driver.create("clone", "source"))  # the id is free

    asyncio.run(use())
    assert len(list((home / "dir/clone/9").iterdir())) == len(
        list((home / "dir/source/9").iterdir())
    )


def test_a_failure_of_a_cancelled_call_is_logged(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held()

    def call(progress: Progress) -> None:
        try:
            held.copy("call", progress)
        except Cancelled:
            raise LayerError("it could not be undone") from None

    async def use() -> None:
        task = asyncio.ensure_future(work.copy(call))
        await asyncio.to_thread(held.wait_until_begun, 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(use())
    assert "it could not be undone" in caplog.text
