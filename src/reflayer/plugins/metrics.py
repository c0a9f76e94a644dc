"""Requests as they are timed, logged and, by a subclass, counted."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager

from reflayer.errors import LayerError
from reflayer.plugins.service import Cancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.copy import CopyReport


class Operation:
    """One request that is being answered.

    Attributes:
        outcome: None until it is known: ``ok``; ``refused``, an answer that the protocol has a word
            for, such as a layer that is not there; ``failed``; ``cancelled``, its client has gone.
            A service may set ``refused`` or ``failed`` itself where it raises nothing.
        error: the text of the failure for the log, if any.
    """

    __slots__ = ("error", "outcome")

    def __init__(self) -> None:
        self.outcome: str | None = None
        self.error: str | None = None


class Metrics:
    """Counts nothing, but logs each request; ``reflayer.plugins.prometheus`` counts."""

    @contextmanager
    def operation(self, service: str, name: str, **fields: object) -> Iterator[Operation]:
        """The block answers one request: it is timed, counted and logged.

        Args:
            service: ``docker`` or ``containerd``; the logger is ``reflayer.SERVICE``.
            name: the protocol's word for the request: ``Create``, ``Prepare``.
            fields: what the log tells besides: ``id``, ``parent``, ``key``, ``namespace``.

        An exception is passed on. ``LayerError`` counts as ``refused``, cancellation as
        ``cancelled``, any other as ``failed``. It is logged: with level debug, or error for
        ``failed``.
        """
        operation = Operation()
        started = time.monotonic()
        try:
            yield operation
        except BaseException as error:
            if operation.outcome is None:
                operation.outcome = _outcome(error)
            if operation.error is None:
                operation.error = str(error) or type(error).__name__
            raise
        finally:
            outcome = operation.outcome or "ok"
            seconds = time.monotonic() - started
            self._count(service, name, outcome, seconds)
            logger = logging.getLogger(f"reflayer.{service}")
            level = logging.ERROR if outcome == "failed" else logging.DEBUG
            if logger.isEnabledFor(level):
                told = {"operation": name, **fields, "outcome": outcome}
                told["seconds"] = round(seconds, 6)
                if operation.error is not None:
                    told["error"] = operation.error
                logger.log(level, "%s %s", name, outcome, extra={"fields": told})

    def copied(self, report: CopyReport | None) -> None:
        """Count what a clone copied; None is none."""

    def clones(self, service: str, count: Callable[[], int]) -> None:
        """Let ``count``, called from another thread, tell how many layers ``service`` has."""

    def _count(self, service: str, name: str, outcome: str, seconds: float) -> None:
        pass


def _outcome(error: BaseException) -> str:
    if isinstance(error, (asyncio.CancelledError, Cancelled)):
        return "cancelled"
    return "refused" if isinstance(error, LayerError) else "failed"
