"""Inboxes: open connections on their way from one of several processes to another."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

import structlog

log = structlog.get_logger()


def create(places: int) -> list[int]:
    """The numbers of the sockets of so many inboxes, two each; for processes to inherit.

    All processes have both ends of every inbox, so what is in one waits while its owner is started
    again.
    """
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(places)]
    return [end.detach() for pair in pairs for end in pair]


class Inboxes:
    """The inboxes of all processes, and which of them is this one's."""

    def __init__(self, file_numbers: Sequence[int], place: int) -> None:
        ends = [socket.socket(fileno=number) for number in file_numbers]
        for end in ends:
            end.setblocking(False)
        self.mine = ends[2 * place]
        self._others = ends[1::2]

    def give(self, connection: int, place: int) -> bool:
        """Put a copy of this open file into an inbox; False when it is full."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection]))
        try:
            self._others[place].sendmsg([b"."], [rights])
        except OSError:  # full, or too many files are on their way
            return False
        return True

    def take(self) -> list[socket.socket]:
        """The connections that others gave; what this process has no file left for is closed."""
        taken = list[int]()
        while True:
            try:
                _, numbers, _, _ = socket.recv_fds(self.mine, 1, 1)
            except BlockingIOError:
                return [socket.socket(fileno=number) for number in taken]
            if not numbers:
                log.warning("connection_lost", reason="no file left for what was passed on")
            for number in numbers:
                os.set_inheritable(number, False)
            taken += numbers
