"""What an ordinary user's program asks for is done in the user namespace of his commands.

A program cannot enter it as a command does: it may have threads, and other files to work with. So
another process is there for it, which forks for each thing that is asked for. That one has the
folder and the environment of the program, gets the function and its arguments, and answers with
what it returns or raises, all by pickle(3). It ends with the program, whatever ends that.
"""

from __future__ import annotations

import _thread
import os
import pickle
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

from reflayer import xdg
from reflayer.errors import ReflayerError
from reflayer.linux.user_namespace import NamespaceError, enter, has_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any, NoReturn, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from reflayer.workers.in_namespace import main; main()"
)
_SOCKET = 3  # the descriptor, in the process that is started
_READY = b"."
_KILLED = "the process that works in the user's namespace was killed"
_CALL, _RETURNED, _RAISED = "call", "returned", "raised"
_IMPORTED = (  # once, and not for each request
    *("reflayer.store.create", "reflayer.store.checkpoints", "reflayer.sandbox.box"),
    *("reflayer.sandbox.run", "reflayer.copy", "json", "subprocess"),
)

_lock = _thread.allocate_lock()
_started: dict[int, socket.socket | None] = {}
"""The process of this user; None where he has no namespace."""


def is_outside() -> bool:
    """Whether this is an ordinary user who has a namespace, and is not in it."""
    user = os.geteuid()
    return user != 0 and user == os.getuid() and _process(user) is not None


def ask(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Call a function of reflayer's in the namespace; what it is given to be called is called here.

    Raises:
        BaseException: what it raises.
        ReflayerError: the process was killed.
    """
    with _asked(function, arguments, named, stays=False) as value:
        result: R = value
    return result


@contextmanager
def held(function: Callable[..., AbstractContextManager[R]], *arguments: object) -> Iterator[R]:
    """Enter the context that a function returns, in the namespace, for as long as the block runs.

    It is left also where this process is killed.
    """
    with _asked(function, arguments, {}, stays=True) as value:
        yield value


@contextmanager
def _asked(
    function: Any, arguments: tuple[Any, ...], named: dict[str, Any], *, stays: bool
) -> Iterator[Any]:
    """Ask; with ``stays`` a context is left after the block."""
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rwb") as file:
        with theirs:
            _hand_over(theirs)
        try:
            called: list[Any] = []
            request = (
                function,
                [_by_number(one, called) for one in arguments],
                {name: _by_number(one, called) for name, one in named.items()},
                stays,
                _folder(),
                dict(os.environ),
            )
            _send(file, request)
            told, value = _answer(file, called)
        except BaseException:  # of this process: let it be undone there
            ours.shutdown(socket.SHUT_WR)
            with suppress(ReflayerError, OSError):
                while _received(file)[0] == _CALL:
                    pass
            raise
        if told == _RAISED:
            raise value
        if not stays:
            yield value
            return
        try:
            yield value
        finally:
            ours.shutdown(socket.SHUT_WR)
            told, value = _answer(file, [])
            if told == _RAISED:
                raise value


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted; nothing needs it but a relative path
        return "/"


def _hand_over(connection: socket.socket) -> None:
    process = _process(os.geteuid())
    assert process is not None
    try:
        socket.send_fds(process, [b"."], [connection.fileno()])
    except OSError:
        _started.clear()  # so the next starts another
        raise ReflayerError(_KILLED) from None


def _answer(file: Any, called: list[Any]) -> tuple[str, Any]:
    """How it ended, and with what; meanwhile call what is asked to be."""
    while True:
        told, value, *arguments = _received(file)
        if told != _CALL:
            return told, value
        _send(file, called[value](*arguments))


def _by_number(value: Any, called: list[Any]) -> Any:
    """What can be called, or written to, by a number; all else as it is."""
    function = value if callable(value) else getattr(value, "write", None)
    if function is None:
        return value
    called.append(function)
    return _Number(len(called) - 1)


class _Number(int):
    """Of what is called in the process that asks."""


class _Caller:
    """Calls something in the process that asks."""

    def __init__(self, file: Any, number: int) -> None:
        self._file = file
        self._number = number

    def __call__(self, *arguments: Any) -> Any:
        _send(self._file, (_CALL, int(self._number), *arguments))
        return _received(self._file)

    write = __call__


def _send(file: Any, value: object) -> None:
    data = pickle.dumps(value)  # before anything is written
    file.write(data)
    file.flush()


def _received(file: Any) -> Any:
    try:
        return pickle.load(file)
    except EOFError:
        raise ReflayerError(_KILLED) from None


def _process(user: int) -> socket.socket | None:
    """The connection to the process, which is started where there is none."""
    with _lock:
        if user not in _started:
            _started[user] = _start() if has_ranges() and sys.executable else None
        return _started[user]


def _start() -> socket.socket | None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        fds = set(map(int, os.listdir("/proc/self/fd"))) - {*range(_SOCKET + 1)}
        python = sys.executable
        pid = os.posix_spawn(
            python,
            [python, "-I", "-X", "utf8=1", "-c", _CODE, _PACKAGES],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _SOCKET),
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in fds),
            ],
            setsid=True,  # a terminal's signals are for the program
            setsigmask=[],
        )
    if ours.recv(1) == _READY:
        return ours
    ours.close()
    os.waitpid(pid, 0)
    return None


def main() -> None:
    """The process: fork for each connection that comes, until the program has ended."""
    process = socket.socket(fileno=_SOCKET)
    process.set_inheritable(False)
    home = xdg.in_home("")
    try:
        enter()
    except NamespaceError:  # the error of a store tells why, where that is the reason
        return
    for module in _IMPORTED:
        import_module(module)
    process.send(_READY)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        word, fds, *_ = socket.recv_fds(process, 1, 1)
        if not word:
            return
        os.set_inheritable(fds[0], False)
        if not os.fork():
            process.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _serve(socket.socket(fileno=fds[0]), home)
        os.close(fds[0])


def _serve(connection: socket.socket, home: str | None) -> NoReturn:
    """Do what is asked for by one connection."""
    try:
        file = connection.makefile("rwb")
        function, arguments, named, stays, folder, environment = _received(file)
        os.environ.clear()
        os.environ.update(environment)
        if home is not None:  # inside, passwd(5) has another user's
            os.environ.setdefault("HOME", home)
        watched = [connection]
        _thread.start_new_thread(_watch, (watched, _thread.get_ident()))
        try:
            os.chdir(folder)
            value = function(
                *(_as_called(file, one) for one in arguments),
                **{name: _as_called(file, one) for name, one in named.items()},
            )
            if stays:
                with value as entered:
                    watched.clear()  # from now on it is left in order
                    _send(file, (_RETURNED, entered))
                    file.read(1)
                value = None
            _send(file, (_RETURNED, iter([*value]) if isinstance(value, Iterator) else value))
        except BaseException as error:
            with suppress(OSError):
                _send(file, (_RAISED, error))
    finally:
        os._exit(0)


def _watch(watched: list[socket.socket], thread: int) -> None:
    """Interrupt the thread when who asked has gone, or does not want it any more."""
    poll = select.poll()
    poll.register(watched[0], select.POLLRDHUP)
    poll.poll()
    if watched:
        signal.pthread_kill(thread, signal.SIGINT)


def _as_called(file: Any, value: Any) -> Any:
    return _Caller(file, value) if isinstance(value, _Number) else value
