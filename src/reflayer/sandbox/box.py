"""``Sandbox``: a container for the commands of a Python program, gone with its ``with`` block."""

from __future__ import annotations

import os
from contextlib import contextmanager

from reflayer.errors import SandboxError
from reflayer.record import replace
from reflayer.sandbox.process import Volume, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from os import PathLike
    from subprocess import CompletedProcess, Popen
    from types import TracebackType
    from typing import Self

    from reflayer.sandbox.run import Prepared
    from reflayer.store import Container, Store
    from reflayer.store.containers import Checkpoint


class Sandbox:
    """A fresh container of an image in a ``with`` statement, in which commands are run.

    It is a path (``os.fspath``), that of its root. At the end of the block it is removed, and where
    the process is killed meanwhile, the next that runs something, or ``reflayer prune``, ends what
    runs in it and removes it. Any thread may run commands in it, also side by side; each has
    processes, mounts and ``/tmp`` of the container, and ends with its first process.
    """

    def __init__(
        self,
        image: str | PathLike[str],
        *,
        store: Store | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str = "",
        user: str = "",
        volumes: Mapping[str, str] | Mapping[PathLike[str], str] | None = None,
        network: str = "host",
        read_only: bool = False,
        runtime: str | None = None,
        id_map: str | None = None,
    ) -> None:
        """Nothing is made before the block is entered.

        Args:
            image: what to make it of, as ``Store.create`` takes it.
            store: where; by default the user's.
            env: variables beside the image's.
            workdir: where commands start, made where it is missing; by default as the image says.
            user: who runs them, ``USER[:GROUP]``; by default as the image says.
            volumes: files and folders of this machine, each with its path in the container, which
                ``:ro`` may follow.
            network: ``host`` or ``none``.
            read_only: whether only volumes can be changed.
            runtime: ``crun``, ``runc``, ``bwrap`` or ``namespaces``; by default the best there is.
            id_map: that of a user namespace of its own, as for ``Store.create``; by crun or runc.

        Raises:
            ValueError: one of these is none.
        """
        from reflayer.sandbox.runtimes import NAMES

        if runtime is not None and runtime not in NAMES:
            raise ValueError(f"runtime {runtime!r} is none of {', '.join(NAMES)}")
        self._image = image
        self._given = store
        self._wanted = Wanted(
            env=_variables(env),
            workdir=workdir,
            user=user,
            volumes=tuple(_volume(*one) for one in (volumes or {}).items()),
            network=network,
            read_only=read_only,
        )
        self._runtime = runtime
        self._id_map = id_map
        self._entered: tuple[Store, Container, AbstractContextManager[Container], int] | None = None

    def __enter__(self) -> Self:
        """Make the container.

        Raises:
            ReflayerError: it cannot be made.
        """
        from reflayer.store import Store

        if self._entered is not None:
            raise SandboxError("a sandbox is entered once")
        store = self._given or Store()
        if store._parts.is_outside:
            from reflayer.workers.in_namespace import held

            made = held(_made, store, self._image, self._id_map)
        else:
            made = _made(store, self._image, self._id_map)
        self._entered = store, made.__enter__(), made, os.getpid()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._entered is None or self._entered[-1] != os.getpid():  # a fork is not its owner
            return
        mark = self._entered[2]
        self._entered = None
        mark.__exit__(kind, error, traceback)

    @property
    def container(self) -> Container:
        """The store's record of it.

        Raises:
            SandboxError: the block is not entered, or left.
        """
        return self._open[1]

    @property
    def path(self) -> str:
        """Its root file system."""
        return self.container.path

    def __fspath__(self) -> str:
        return self.path

    def run(
        self,
        command: Sequence[str] = (),
        *,
        input: str | bytes | None = None,  # noqa: A002 - as in subprocess
        env: Mapping[str, str] | None = None,
        workdir: str = "",
        user: str = "",
        timeout: float | None = None,
        check: bool = False,
    ) -> CompletedProcess[str]:
        """Run a command; return its ``returncode``, ``stdout`` and ``stderr``.

        A signal that ended it is 128 and its number. What it prints is text by UTF-8, in which
        other bytes are as ``os.fsdecode`` has them.

        Args:
            command: its words, after the image's entrypoint; without any, the image's.
            input: what it reads; by default nothing.
            env: variables beside those of the sandbox.
            workdir: in place of the sandbox's.
            user: in place of the sandbox's.
            timeout: seconds, after which it is ended, with all it has started.
            check: raise where it fails.

        Raises:
            SandboxError: it cannot be run; ``status`` 127 where it is not there.
            subprocess.TimeoutExpired: it took longer; with what it printed.
            subprocess.CalledProcessError: it failed, with ``check``.
        """
        import subprocess

        if isinstance(command, str):
            raise TypeError("a command is a list of words: ['sh', '-c', 'ls | wc -l']")
        store, container, *_ = self._open
        wanted = replace(
            self._wanted,
            command=tuple(map(os.fspath, command)),
            env=(*self._wanted.env, *_variables(env)),
            workdir=workdir or self._wanted.workdir,
            user=user or self._wanted.user,
        )
        data = input.encode("utf-8", "surrogateescape") if isinstance(input, str) else input
        status, out, err = store._parts.do(
            _run, store, container, wanted, self._runtime, data, timeout
        )
        words = list(wanted.command)
        done = subprocess.CompletedProcess(words, status, _text(out), _text(err))
        if check:
            done.check_returncode()
        return done

    def checkpoint(self, name: str | None = None) -> Checkpoint:
        """Keep what the container is now; by default it is called by the next number.

        Raises:
            ReflayerError: a checkpoint is called so, or what changed cannot be copied.
        """
        store, container, *_ = self._open
        return store.checkpoint(container.id, name)

    def rollback(self, checkpoint: str | None = None) -> None:
        """Let the container be what it was at a checkpoint, by default the last, or at first.

        Raises:
            SandboxError: something runs in it.
            ReflayerError: there is no such checkpoint, or it cannot be done.
        """
        store, container, *_ = self._open
        store._parts.do(_roll_back, store, container, checkpoint)

    @property
    def _open(self) -> tuple[Store, Container, AbstractContextManager[Container], int]:
        if self._entered is None:
            raise SandboxError("a sandbox is there within its with statement alone")
        return self._entered


@contextmanager
def _made(store: Store, image: str | PathLike[str], id_map: str | None) -> Iterator[Container]:
    """A container that is removed in the end."""
    from reflayer.sandbox.run import removing, sweep

    sweep(store)
    name = f"sandbox-{os.urandom(8).hex()}"
    with removing(store, name):
        yield store.create(image, name=name, id_map=id_map)


def _run(
    store: Store,
    container: Container,
    wanted: Wanted,
    runtime: str | None,
    data: bytes | None,
    timeout: float | None,
) -> tuple[int, bytes, bytes]:
    """Run a command; return its status and what it printed."""
    import subprocess

    from reflayer.sandbox.failures import refuse_failure
    from reflayer.sandbox.run import prepared

    with prepared(store, container, wanted, runtime, tidy=False) as ready:
        with subprocess.Popen(
            ready.words,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(ready.info,),
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(data, timeout)
            except BaseException as error:
                printed = _end(ready, process, store)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise subprocess.TimeoutExpired(
                        list(wanted.command), error.timeout, *printed
                    ) from None
                raise
        code = process.returncode
        status = 128 - code if code < 0 else code
        refuse_failure(f"{ready.folder}/log", status, ready.runtime)
    return status, out, err


def _roll_back(store: Store, container: Container, checkpoint: str | None) -> None:
    from reflayer.sandbox.run import refuse_running

    refuse_running(store, container)
    store.rollback(container.id, checkpoint)


def _end(ready: Prepared, process: Popen[bytes], store: Store) -> tuple[str, str]:
    """End what runs, and return what it has printed."""
    from reflayer.sandbox.run import end

    end(store, ready.folder, ready.runtime)
    process.kill()
    out, err = process.communicate()
    return _text(out), _text(err)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _variables(env: Mapping[str, str] | None) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in (env or {}).items())


def _volume(source: str | PathLike[str], destination: str) -> Volume:
    path = destination.removesuffix(":ro")
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} in a container is not absolute")
    return Volume(os.path.abspath(source), os.path.normpath(path), path != destination)
