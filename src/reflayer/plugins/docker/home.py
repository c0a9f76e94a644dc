"""The home that the daemon named: its driver, kept over a restart of this process."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from contextlib import suppress
from functools import partial

from reflayer.driver.home import LAYERS
from reflayer.driver.quota import size_in_bytes
from reflayer.errors import ReflayerError, failing
from reflayer.plugins.docker.calls import InitRequest, RequestError, shown
from reflayer.plugins.docker.orphans import remove_orphans
from reflayer.plugins.service import ready_spares
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from reflayer.driver import Driver

_STATE, _STARTED = 0, 19  # of what follows the name in /proc/PID/stat (proc(5))
_DEAD = (b"Z", b"X")  # its parent has not waited for it yet

_log = logging.getLogger("reflayer.docker")


class NotInitialisedError(ReflayerError):
    """A daemon asked for layers before it told where they are."""


@record
class Daemon:
    """A daemon's process, told from a later one that has got its number."""

    process: int  # its id; 0 where that is unknown, as from another namespace
    started: int  # in clock ticks since the boot; 0 where it is not running

    @classmethod
    def running(cls, process: int) -> Self:
        try:
            with open(f"/proc/{process}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return cls(process, 0)
        return cls(process, 0 if fields[_STATE] in _DEAD else int(fields[_STARTED]))

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """From what ``str`` made of one; or its id alone, as older records have it."""
        process, _, started = text.partition(b" ")
        return cls(int(process), int(started)) if started else cls.running(int(process))

    def __str__(self) -> str:
        return f"{self.process} {self.started}"

    def is_alive(self) -> bool:
        """Whether the process still runs; False where that is unknown."""
        return self.started != 0 and Daemon.running(self.process) == self


class Home:
    """The driver of the daemon's home. A daemon names it once, with ``GraphDriver.Init``.

    It does not do so again when only this process starts anew, so the request is kept in a file
    beside the socket: there it is gone after a boot, as the daemon is.
    """

    def __init__(self, socket: str, open_driver: Callable[..., Driver]) -> None:
        self._open_driver = open_driver  # with the home, the map of ids and the size
        self._record = f"{socket}.init"
        self._driver: Driver | None = None
        self._daemon = Daemon(0, 0)
        self._lock = threading.Lock()  # one daemon after the other

    @property
    def driver(self) -> Driver:
        if self._driver is None:
            raise NotInitialisedError(
                "no daemon has told where its layers are (GraphDriver.Init): restart the daemon"
            )
        return self._driver

    def resume(self) -> None:
        """Open the home that a process before this one was told, if any."""
        with failing(self._record, "read"):
            try:
                with open(self._record, "rb", opener=_only_ours) as file:
                    daemon, _, body = file.read().partition(b"\n")
            except FileNotFoundError:
                return
        try:
            request = InitRequest.parse(body)
            if not os.path.isdir(f"{request.home}/{LAYERS}"):
                raise RequestError(f"there are no layers in {request.home} any more")
            self._open(request, Daemon.parse(daemon))
        except (ReflayerError, ValueError) as error:
            # The daemon can still tell it anew, but not if this process does not start.
            _log.error("%s: %s: restart the daemon", self._record, error)

    def init(self, request: InitRequest, process: int) -> None:
        """``GraphDriver.Init`` by ``process``: open its home, anew if it was open.

        References begin at zero, as those of the daemon do.
        """
        daemon = Daemon.running(process)
        with self._lock:
            if (
                self._driver is not None
                and self._driver.home != os.path.realpath(request.home)
                and self._daemon != daemon
                and self._daemon.is_alive()
            ):
                raise RequestError(
                    "this plugin has the layers of the daemon with process id "
                    f"{self._daemon.process}, in {self._driver.home}: "
                    f"start another for {request.home}, at another socket"
                )
            self._open(request, daemon)
            self.driver.drop_trees()
            self._keep(request, daemon)

    def cleanup(self) -> None:
        """``GraphDriver.Cleanup``: the daemon ends, and will tell its home again."""
        with failing(self._record, "unlink"), self._lock, suppress(FileNotFoundError):
            self._driver = None
            os.unlink(self._record)

    def count(self) -> int:
        return 0 if self._driver is None else len(self._driver.list())

    def spares(self) -> int:
        return 0 if self._driver is None else ready_spares(self._driver)

    def _open(self, request: InitRequest, daemon: Daemon) -> None:
        size = None
        for option in request.options:
            name, equals, value = option.partition("=")
            if not equals:
                raise RequestError(f"storage option {shown(option)} is not NAME=VALUE")
            if name.strip().lower() != "size":
                raise RequestError(f"unknown option {name.strip()[:100]} for reflayer")
            size = size_in_bytes(value.strip())
        driver = self._open_driver(request.home, id_map=request.id_map, size=size)
        remove_orphans(driver)
        self._driver = driver
        self._daemon = daemon

    def _keep(self, request: InitRequest, daemon: Daemon) -> None:
        new = f"{self._record}.new"
        with failing(self._record, "write"):
            with suppress(FileNotFoundError):
                os.unlink(new)  # of a process that was killed
            with open(new, "xb", opener=partial(os.open, mode=0o600)) as file:
                file.write(b"%s\n%s" % (str(daemon).encode(), request.as_json()))
            os.rename(new, self._record)


def _only_ours(path: str, flags: int) -> int:
    """Open the file ``path`` if no other user can have written it: its folder may be /tmp."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        os.close(fd)
        raise PermissionError(errno.EPERM, "it is not a file that only this user can write")
    return fd
