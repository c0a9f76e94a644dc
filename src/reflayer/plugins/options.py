"""What each service is told on the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """Docker's plugin; its home comes from the daemon, with ``GraphDriver.Init``.

    Attributes:
        socket: path of the Unix socket.
        method: how a layer is cloned, one of ``reflayer.driver.METHODS``.
        workers: threads that work on one clone; None for as many as there are processors.
    """

    socket: str
    method: str = "auto"
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerdOptions:
    """containerd's snapshotter.

    Attributes:
        socket: path of the Unix socket.
        home: the folder of the snapshots and of what is recorded about them.
        method: how a snapshot is cloned, one of ``reflayer.driver.METHODS``.
        workers: threads that work on one clone; None for as many as there are processors.
    """

    socket: str
    home: str
    method: str = "auto"
    workers: int | None = None
