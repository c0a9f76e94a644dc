"""Requests for the same snapshot follow each other; those for different ones do not wait."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """A queue for each name that somebody is using; for one event loop."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def of(self, *names: str) -> AsyncIterator[None]:
        """Have ``names`` to oneself while the block runs; wait for those who came before."""
        async with AsyncExitStack() as stack:
            for name in sorted(set(names)):  # all in one order: nobody waits in a circle
                await stack.enter_async_context(self._one(name))
            yield

    @asynccontextmanager
    async def _one(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._users[name] = self._users.get(name, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._locks[name]
