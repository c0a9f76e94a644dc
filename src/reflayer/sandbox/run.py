"""One command in one container, from its bundle to its exit status; what dead ones left."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from reflayer.errors import ReflayerError, SandboxError, failing
from reflayer.linux.mkdir import make_folders
from reflayer.record import record
from reflayer.sandbox import inside, runtimes
from reflayer.sandbox.failures import refuse_failure
from reflayer.sandbox.first_process import (
    first_process,
    has_ended,
    is_in_reach,
    kill_as_its_user,
)
from reflayer.sandbox.process import FAILED, Wanted, process_of, refuse_missing
from reflayer.sandbox.runtimes import Runtime
from reflayer.sandbox.signals import PASSED_ON
from reflayer.sandbox.spec import Bundle, Rights, bundle_of, process_json
from reflayer.workers.lock import abandoned, claim_new, claims

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from typing import Any

    from reflayer.store import Container, Store
    from reflayer.walk.id_map import IdMap

    Json = dict[str, Any]
else:
    import _signal as signal

_DIGITS = 16  # of a container's id, that its bundles begin with
_HOSTS = ".hosts"  # beside the bundles
_REMOVE = "remove"  # the name of a mark that says so begins with it


@record
class Prepared:
    """A command that can be started.

    Attributes:
        words: its own command.
        folder: the bundle's.
        runtime: what runs it.
        info: a descriptor that it is to inherit.
        console: the path of the socket over which its terminal comes; empty where it gets one.
    """

    words: list[str]
    folder: str
    runtime: Runtime
    info: int
    console: str


def hostname_of(container: Container, wanted: Wanted) -> str:
    """Docker's: with the host's network the name that goes with it, else the beginning of its id.

    So it is found in the host's ``/etc/hosts``, which the container has then.
    """
    return os.uname().nodename if wanted.network == "host" else container.id[:12]


def spec(store: Store, name: str, wanted: Wanted) -> Bundle:
    """The bundle that runs something in a container."""
    return _bundle(store, store.container(name), wanted)


def _bundle(store: Store, container: Container, wanted: Wanted) -> Bundle:
    image = store.image_config(container.image_id)
    hosts = "" if wanted.network == "host" else _hosts(store)
    name = hostname_of(container, wanted)
    return bundle_of(container.path, name, image, wanted, hosts, container.id_map)


def _hosts(store: Store) -> str:
    """The ``/etc/hosts`` (hosts(5)) of containers without a network."""
    path = f"{_folder(store)}/{_HOSTS}"
    if not os.path.exists(path):
        new = f"{path}.{os.urandom(8).hex()}"
        with failing(path, "write"):
            with open(new, "w") as file:
                file.write("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
            os.chmod(new, 0o644)  # whatever the umask is
            os.replace(new, path)
    return path


@contextmanager
def prepared(
    store: Store, container: Container, wanted: Wanted, runtime: str | None, *, tidy: bool = True
) -> Iterator[Prepared]:
    """Have a bundle; in the end what runs of it is ended, and what it took is undone.

    Args:
        store: the container's.
        container: where to run it.
        wanted: what, and how.
        runtime: one of ``runtimes.NAMES``; None takes the best.
        tidy: take away what was made to be mounted on; not, where others run in there.
    """
    bundle = _bundle(store, container, wanted)
    user = bundle.process.user
    is_root = not user.uid and not user.gid
    chosen = runtimes.find(runtime, is_root=is_root, is_mapped=container.id_map is not None)
    runtimes.fit(bundle.config, chosen)
    folder = _folder(store)
    if container.id_map is not None:
        _let_pass(store, container, container.id_map)
    mark = claim_new(folder, container.id[:_DIGITS])
    info = -1
    try:
        with failing(mark.path, "write"):
            os.mkdir(mark.path, 0o700)
            state = {
                "runtime": chosen.name,
                "program": chosen.program,
                "path": container.path,
                "made": bundle.made if tidy else [],
            }
            _write(f"{mark.path}/state.json", state)
            _write(f"{mark.path}/config.json", bundle.config)
            info = os.open(f"{mark.path}/info", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _refuse_missing(container.path, bundle)
        id = os.path.basename(mark.path)
        words = runtimes.running(chosen, f"{folder}/.state", mark.path, id, bundle.config, info)
        console = runtimes.console_of(chosen, f"{mark.path}/run") if wanted.terminal else ""
        yield Prepared(words, mark.path, chosen, info, console)
    finally:
        if info >= 0:
            os.close(info)
        _clear(store, mark.path)
        mark.release()


def _let_pass(store: Store, container: Container, id_map: IdMap) -> None:
    """Let the root of a user namespace get to the container's, and to what is bound into it."""
    from reflayer.walk.id_map import let_pass

    above = os.path.dirname(container.path)
    for one in (store.root, os.path.dirname(above), above, _folder(store)):
        with failing(one, "let the root of a user namespace pass"):
            let_pass(one, id_map.root[0])


def _refuse_missing(path: str, bundle: Bundle) -> None:
    mounts = bundle.config["mounts"]
    assert isinstance(mounts, list)
    root = inside.open_root(path)
    try:
        refuse_missing(bundle.process, root, [one["destination"] for one in mounts])
    finally:
        os.close(root)


@contextmanager
def removing(store: Store, name: str) -> Iterator[None]:
    """In the end, or when this process has died, remove the container of this name, if there is."""
    mark = claim_new(_folder(store), f"{_REMOVE}-{name}")
    try:
        os.mkdir(mark.path, 0o700)
        _write(f"{mark.path}/state.json", {_REMOVE: name})
        yield
    finally:
        _clear(store, mark.path)
        mark.release()


def bundle_that_runs(store: Store, container: Container) -> str | None:
    """The folder of the bundle by which something runs in a container."""
    folder, prefix = f"{store.root}/running", container.id[:_DIGITS] + "."
    try:
        names = set(os.listdir(folder))
    except FileNotFoundError:
        return None
    running = (name.removesuffix(".lock") for name in claims(names) if name.startswith(prefix))
    return next((f"{folder}/{name}" for name in sorted(running) if name in names), None)


def refuse_running(store: Store, container: Container) -> None:
    """Raise a SandboxError where something runs in it."""
    if os.path.isdir(f"{store.root}/running"):
        sweep(store)
        if bundle_that_runs(store, container) is not None:
            raise SandboxError(f"{container.name}: is running: reflayer exec runs more in it")


def sweep(store: Store) -> None:
    """End and undo what dead processes left; those that live are not disturbed.

    What another user's left is his to clear: it says which program is to be started for that.
    """
    folder = f"{store.root}/running"
    if not os.path.isdir(folder) or not _is_ours(folder):
        return
    for is_mark in (False, True):  # what runs in a container ends before that goes
        for path, _ in abandoned(folder):
            if os.path.basename(path).startswith(_REMOVE) is is_mark or not os.path.isdir(path):
                _clear(store, path)


def _is_ours(folder: str) -> bool:
    return os.stat(folder).st_uid == os.geteuid()


def foreground(
    store: Store,
    container: Container,
    wanted: Wanted,
    runtime: str | None = None,
    *,
    reads: bool = False,
) -> int:
    """Run a command with our standard streams and signals; return its exit status.

    One that a signal ended is 128 and its number.

    Args:
        store: the container's.
        container: where.
        wanted: what.
        runtime: by what, one of ``runtimes.NAMES``.
        reads: let it read our standard input.

    Raises:
        SandboxError: it cannot be run, or something runs there.
    """
    sweep(store)
    refuse_running(store, container)
    with prepared(store, container, wanted, runtime) as ready:
        status = _spawn_and_wait(ready, wanted.terminal, reads)
        refuse_failure(f"{ready.folder}/log", status, ready.runtime)
        return status


def execute(store: Store, container: Container, wanted: Wanted, *, reads: bool = False) -> int:
    """Run another command where one runs; otherwise as ``foreground``."""
    sweep(store)
    folder = bundle_that_runs(store, container)
    if folder is not None:
        if not _is_ours(os.path.dirname(folder)):
            raise SandboxError(
                f"{container.name}: another user runs it: exec is for that one alone"
            )
        try:
            status = _execute(store, container, folder, wanted, reads)
            if status != FAILED or os.path.isdir(folder):
                return status
        except (ReflayerError, ValueError):
            if _runs(store, folder):
                raise
    name = container.name
    raise SandboxError(f"{name}: is not running: reflayer run {name} COMMAND runs it")


def _runs(store: Store, folder: str) -> bool:
    """Whether what runs by the bundle in a folder has begun, and has not ended by now."""
    first = _first_process(store, folder)
    return first != 0 and not has_ended(first)


def _first_process(store: Store, folder: str) -> int:
    """That of what runs by the bundle in a folder; 0 where there is none yet, or none any more."""
    try:
        runtime = _runtime_of(folder)
    except (FileNotFoundError, ValueError):  # it is just being made, or deleted
        return 0
    return first_process(runtime, f"{store.root}/running/.state", folder)


def _execute(store: Store, container: Container, folder: str, wanted: Wanted, reads: bool) -> int:
    with failing(folder, "read"):
        config, runtime = _read(f"{folder}/config.json"), _runtime_of(folder)
    states = f"{store.root}/running/.state"
    first = first_process(runtime, states, folder)
    if first and not is_in_reach(first):
        raise SandboxError(
            f"{container.name}: runs in a user namespace that is out of reach from this one: "
            "reflayer exec does it where reflayer unshare was started"
        )
    process = _another(container, config, wanted)
    path = f"{folder}/{os.urandom(8).hex()}.json"
    log = f"{path}.log"
    with failing(path, "write"):
        _write(path, process)
        told = os.open(log, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)  # also when it is gone
    try:
        id, terminal = os.path.basename(folder), wanted.terminal
        words = runtimes.executing(runtime, states, folder, id, path, log, terminal=terminal)
        via = runtime if runtime.is_oci else Runtime("namespaces", "")
        console = runtimes.console_of(runtime, path) if terminal else ""
        status = _spawn_and_wait(Prepared(words, folder, via, -1, console), terminal, reads)
        refuse_failure(f"/proc/self/fd/{told}", status, runtime)
        return status
    finally:
        os.close(told)
        for made in (path, log, runtimes.console_of(runtime, path)):
            with suppress(FileNotFoundError):
                os.unlink(made)


def process_in(store: Store, container: Container) -> int:
    """The number of the first process of something that runs in a container; 0: nothing runs."""
    folder = bundle_that_runs(store, container)
    return 0 if folder is None else _first_process(store, folder)


def _runtime_of(folder: str) -> Runtime:
    state = _read(f"{folder}/state.json")
    return Runtime(state["runtime"], state["program"])


def _another(container: Container, config: Json, wanted: Wanted) -> Json:
    """The process that ``wanted`` means beside the one of ``config``."""
    first: Json = config["process"]
    env = [word for word in first["env"] if not (wanted.user and word.startswith("HOME="))]
    settings = {"Env": env, "WorkingDir": first["cwd"]}
    root = inside.open_root(container.path)
    try:
        found = process_of(settings, wanted, root, config["hostname"])
    finally:
        os.close(root)
    process = process_json(found, Rights.of_this_process(), container.id_map)
    if not wanted.user:
        process["user"], process["capabilities"] = first["user"], first["capabilities"]
    return process


def _spawn_and_wait(ready: Prepared, terminal: bool, reads: bool) -> int:
    """In a session of its own, so that a terminal's signals come by us alone."""
    child = 0
    early: list[int] = []
    pty = None
    streams: list[tuple[Any, ...]] = []
    if terminal:  # runc makes another, but only where it has one itself
        from reflayer.sandbox.terminal import Terminal

        pty = Terminal(ready.console, nested=ready.runtime.is_oci)
        if pty.path:
            streams = [
                (os.POSIX_SPAWN_OPEN, 0, pty.path, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ]
    if not streams and (pty is not None or not reads):
        streams = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]

    def pass_on(number: int, _: object) -> None:
        if pty is not None and number == signal.SIGWINCH:
            pty.resize()
        elif child:
            with suppress(ProcessLookupError):
                os.kill(_target(ready, child), number)
        else:
            early.append(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        for fd in map(int, os.listdir("/proc/self/fd")):  # what our starter forgot to close
            if fd > 2:
                with suppress(OSError):  # the one that listed them is closed already
                    os.set_inheritable(fd, fd == ready.info)
        with failing(ready.words[0], "run"):
            child = os.posix_spawn(
                ready.words[0],
                ready.words,
                os.environ,
                file_actions=streams,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, *PASSED_ON],
            )
        for number in early:
            os.kill(child, number)
        if pty is not None:
            _join(pty, child, reads)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _join(pty: Any, child: int, reads: bool) -> None:
    done = os.pidfd_open(child)
    try:
        pty.join(done, reads=reads)
    finally:
        os.close(done)


def _target(ready: Prepared, child: int) -> int:
    """Whom a signal is for: bubblewrap hands none on."""
    if ready.runtime.name == "bwrap":
        return first_process(ready.runtime, "", ready.folder) or child
    return child


def _clear(store: Store, path: str) -> None:
    """Undo what the state in a folder says, and delete that."""
    from reflayer.copy import remove_tree

    try:
        state = _read(f"{path}/state.json")
    except (FileNotFoundError, ValueError):  # its maker died before anything was begun
        state = {}
    if "runtime" in state:
        end(store, path, Runtime(state["runtime"], state["program"]))
        if state["made"] and os.path.isdir(state["path"]):
            root = inside.open_root(state["path"])
            try:
                inside.unmake(root, [tuple(one) for one in state["made"]])
            finally:
                os.close(root)
    if _REMOVE in state:
        with suppress(ReflayerError):  # it may be gone, or never have been made
            store.remove_container(state[_REMOVE], wait=False)
    remove_tree(path)


def end(store: Store, folder: str, runtime: Runtime) -> None:
    """End what runs by the bundle in a folder, if it would outlive its starter."""
    states, id = f"{store.root}/running/.state", os.path.basename(folder)
    if runtime.is_oci and os.path.isdir(f"{states}/{id}"):
        _quietly(runtimes.ending(runtime, states, folder, id))
        if kill_as_its_user(runtime, states, folder):  # it is out of the runtime's reach
            _quietly(runtimes.ending(runtime, states, folder, id))


def _quietly(words: list[str]) -> None:
    streams = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    with suppress(OSError):
        os.waitpid(os.posix_spawn(words[0], words, os.environ, file_actions=streams), 0)


def _folder(store: Store) -> str:
    folder = f"{store.root}/running"
    with failing(folder, "mkdir"):
        for one in (store.root, folder, f"{folder}/.state"):
            make_folders(one, 0o700)  # for their owner alone
    return folder


def _write(path: str, value: object) -> None:
    import json

    with open(path, "w") as file:
        json.dump(value, file)


def _read(path: str) -> Json:
    import json

    with open(path) as file:
        value: Json = json.load(file)
    return value
