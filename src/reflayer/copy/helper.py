"""The helper process: it waits for a copy to join, works along, reports, and waits again.

Standard input is its caller's socket. It ends with its caller, however that ends.
"""

from __future__ import annotations

import _thread
import marshal
import os
import select
import signal
import socket
from contextlib import suppress

from reflayer.copy.birth import Birth
from reflayer.copy.board import Board
from reflayer.copy.descriptors import receive
from reflayer.copy.hand import Hand
from reflayer.copy.job import Job
from reflayer.copy.links import Links
from reflayer.copy.sharing import Sharing
from reflayer.errors import CopyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MESSAGE = 1 << 17
"""Bytes of a message to or from a helper at the most."""


def main() -> None:
    """Serve until the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the caller decides
    os.umask(0)
    caller = socket.socket(fileno=0)
    _thread.start_new_thread(_end_with, (caller.fileno(),))
    try:
        caller.send(marshal.dumps(("up",)))
        while True:
            message, fds = receive(caller, MESSAGE, 4)
            if not message:
                return
            _join(caller, message, fds)
    except ConnectionError:
        return  # the caller is gone with words of ours unread


def _end_with(caller: int) -> None:
    poll = select.poll()
    poll.register(caller, 0)  # no event but the hang-up, which is always told
    poll.poll()
    os._exit(1)


def _join(caller: socket.socket, message: bytes, fds: list[int]) -> None:
    """Work along on the copy that ``message`` describes, until it ends or fails."""
    job_values, hands, slot, uid, gid, powerful = marshal.loads(message)
    give_to, take_from, board_fd, root = fds
    board = Board(hands, slot, board_fd)
    links = Links(root, job_values[6])
    sharing = Sharing(board, socket.socket(fileno=give_to), socket.socket(fileno=take_from))
    try:
        report = _work(caller, Job(*job_values), Birth(uid, gid, 0, powerful), links, sharing)
    finally:
        links.close()
        os.close(root)
        sharing.give_to.close()
        sharing.take_from.close()
        board.close()
    caller.send(marshal.dumps(report))


def _work(
    caller: socket.socket, job: Job, birth: Birth, links: Links, sharing: Sharing
) -> tuple[Any, ...]:
    board = sharing.board

    def pause(hand: Hand) -> None:
        board.tell(hand.entries.count(), hand.content.count())
        if board.calls():
            hand.share(sharing)

    hand = Hand(job, birth, links, pause)
    hand.sharing = sharing
    try:
        while True:
            board.rest()
            with suppress(BlockingIOError):  # the caller has not heard the last ones yet
                caller.send(marshal.dumps(("idle",)), socket.MSG_DONTWAIT)
            work = sharing.take(wait=True)
            if work is None:
                break
            hand.do(work)
    except CopyError as error:
        board.fail()
        return ("error", error.path, error.operation, error.reason, error.errno)
    board.tell(hand.entries.count(), hand.content.count())
    return ("report", hand.entries.made, hand.content.moved, hand.metadata.skipped)


if __name__ == "__main__":
    main()
