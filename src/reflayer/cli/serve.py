"""``reflayer serve``."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import sys
from contextlib import ExitStack, contextmanager
from functools import partial

from reflayer.cli.arguments import (
    any_path,
    at_least_one,
    number_to,
    option,
    percent,
    refusal,
    size,
    takes,
)
from reflayer.driver import METHODS
from reflayer.errors import OperationError, ServiceError, UsageError
from reflayer.plugins.containerd.config import HOME
from reflayer.plugins.containerd.config import SOCKET as CONTAINERD_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from reflayer.driver import Driver
    from reflayer.plugins.service import Metrics, Service, Work

SERVICES = ("docker", "containerd")
_MOST_SPARES = 1000
DOCKER_SOCKET = "/run/docker/plugins/reflayer.sock"  # where Docker looks for one of this name


def host_and_port(text: str) -> tuple[str, int]:
    """``HOST:PORT`` in two parts, the brackets of an IPv6 address off."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 address without brackets
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise refusal(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9500 or [::1]:9500")
    return host, int(port)


@takes(
    option("services SERVICE", "docker, containerd", nargs="+", choices=SERVICES),
    option(
        "--docker-socket PATH",
        f"by default {DOCKER_SOCKET}, where Docker looks for it",
        type=any_path,
        default=DOCKER_SOCKET,
    ),
    option(
        "--containerd-socket PATH",
        f"by default {CONTAINERD_SOCKET}",
        type=any_path,
        default=CONTAINERD_SOCKET,
    ),
    option(
        "--home DIR",
        f"where containerd's snapshots are kept; by default {HOME}. "
        "Docker's layers are where its daemon says: DATA-ROOT/reflayer",
        type=any_path,
    ),
    option(
        "--size BYTES",
        "what each of containerd's active snapshots may take, its image's part included: 10G; "
        "one's own label containerd.io/snapshot/disk_quota goes before; needs project quotas. "
        "Docker's daemon has --storage-opt size=10G",
        type=size,
        default=0,
    ),
    option(
        "--method",
        "how a layer is cloned; auto, the default, is the best that works there "
        "(reflayer doctor tells which)",
        choices=METHODS,
        default="auto",
    ),
    option(
        "--workers N",
        "threads that work on one clone; by default the processors that may be used",
        type=at_least_one,
    ),
    option(
        "--spares N",
        "containers made ahead, where clones share blocks: as many of a layer as in the last "
        "minute, at most N; by default 4, 0: none",
        type=number_to(_MOST_SPARES),
        default=4,
    ),
    option(
        "--recycle",
        "let a container that is removed be one of those, where its layer lacks some; only where "
        "what runs in containers is trusted by all others (docs/limits.md)",
        action="store_true",
    ),
    option(
        "--keep-free PERCENT",
        "of the disk, and of its inodes: where less is free, they go; kept for the home, at "
        "first 10",
        type=percent,
    ),
    option(
        "--log-format",
        "of the lines on standard error; json: one object a line, time in UTC",
        choices=("text", "json"),
        default="text",
    ),
    option(
        "--log-level",
        "debug: a line for each request",
        choices=("debug", "info", "warning", "error"),
        default="info",
    ),
    option(
        "--metrics HOST:PORT",
        "serve Prometheus metrics at /metrics and a health check at /healthz there: "
        "127.0.0.1:9500, [::1]:9500",
        type=host_and_port,
    ),
)
def serve(arguments: Namespace) -> int:
    """Keep the layers of a container engine: answer its requests on a Unix socket that only
    root can reach, until a signal.

      docker       Docker's graph-driver plugin, for Docker Engine up to 27:
          dockerd --experimental --storage-driver=reflayer
      containerd   containerd's snapshotter, for containerd, nerdctl, Kubernetes, BuildKit
          and Docker Engine from 28 on: see reflayer containerd-config

    Both in one process: reflayer serve docker containerd. Each needs its libraries: in a
    checkout of reflayer, pip install '.[docker,containerd]'.

    Of what containers are made of, the next are made ahead (--spares) by a process behind: to
    make a container is a rename then. They are deleted when nobody takes them, and where the
    disk gets short; reflayer warm does the same for the containers of a store.

    SIGTERM or SIGINT: nothing new is accepted, what runs is finished, the exit status is 0.
    A second one does not wait: 143 or 130. Under systemd, readiness is told (Type=notify)
    and sockets are taken over (socket activation), so that requests wait while it restarts.
    """
    import asyncio

    from reflayer.plugins.service import log_to_stderr

    if len(set(arguments.services)) != len(arguments.services):
        raise UsageError(f"a service is named twice: {' '.join(arguments.services)}")
    if arguments.home is not None and "containerd" not in arguments.services:
        raise UsageError("--home is containerd's; Docker's daemon tells where its layers are")
    if arguments.size and "containerd" not in arguments.services:
        raise UsageError("--size is containerd's; Docker's daemon has --storage-opt size=10G")
    log_to_stderr(arguments.log_format, arguments.log_level)
    asyncio.run(_serve(arguments))
    return 0


async def _serve(arguments: Namespace) -> None:
    from reflayer.plugins.service import Metrics, Work
    from reflayer.plugins.service import run as run_services
    from reflayer.plugins.unix_socket import passed_by_systemd

    passed_by_systemd()  # before a process is started that would inherit them
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each client takes one, a clone many
    with ExitStack() as stack:
        work = Work()
        stack.callback(work.close)
        metrics = Metrics()
        if arguments.metrics is not None:
            with _library_for(arguments.services[0]):
                from reflayer.plugins.prometheus import PrometheusMetrics
            metrics = counting = PrometheusMetrics()
        services = [_service(name, arguments, work, metrics) for name in arguments.services]
        if arguments.metrics is not None:
            stack.callback(counting.close)
            counting.serve(*arguments.metrics)
        try:
            await run_services(services, at_once=_end)
        except OperationError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            told = f"{error}: this needs root, or a folder elsewhere (--home)"
            raise ServiceError(told) from error


def _service(name: str, arguments: Namespace, work: Work, metrics: Metrics) -> Service:
    open_driver = partial(_open_driver, arguments)
    with _library_for(name):
        if name == "docker":
            from reflayer.plugins.docker.server import DockerService

            return DockerService(work, metrics, open_driver, socket=arguments.docker_socket)
        from reflayer.plugins.containerd.server import ContainerdService

        home = os.path.abspath(arguments.home or HOME)
        return ContainerdService(
            work,
            metrics,
            partial(open_driver, size=arguments.size),
            socket=arguments.containerd_socket,
            home=home,
        )


def _open_driver(arguments: Namespace, home: str, **settings: Any) -> Driver:
    from reflayer.driver import Driver

    driver = Driver(home, method=arguments.method, workers=arguments.workers, **settings)
    if arguments.keep_free is not None:
        driver.keep_free(arguments.keep_free)
    driver.keep_spares_of_used(arguments.spares, recycle=arguments.recycle)
    return driver


@contextmanager
def _library_for(service: str) -> Iterator[None]:
    """Let the error of a library that is not installed tell how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "reflayer"):
            raise
        how = (
            f"in a checkout of reflayer: {shlex.quote(sys.executable)} -m pip install "
            f"'.[{service}]'"
        )
        if "/dist-packages/" in __file__:  # Debian's package
            package = "protobuf" if library == "google" else library.replace("_", "-")
            how = (
                f"apt-get install python3-{package}; where Debian has none, packaging/install "
                f"{service} in a checkout of reflayer"
            )
        raise ServiceError(f"the library {library} is not installed: {how}") from error


def _end(number: int) -> NoReturn:
    """End at once, whatever threads are doing."""
    os._exit(128 + number)
