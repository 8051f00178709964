"""Taking connections from a listening socket that several workers share, each its part.

The system gives a waiting connection to whoever asks first, so the worker that happens to be idle
would take all that come at once, and with clients that keep them open, carry most of the load
from then on.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable

import structlog

from tiebreak.supervised.headcount import ABSENT, Headcount

log = structlog.get_logger()

LOOK_SECONDS = 0.001
PATIENCE_SECONDS = 0.03  # longer than a batch keeps another worker busy
FULL_SECONDS = 1.0  # until the next try, when this process can hold no more


class Acceptor:
    """Takes connections one by one; while another worker holds fewer, that one goes first.

    A worker that is stuck or has died does not come: after `PATIENCE_SECONDS` whatever waits is
    taken at once.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        held: Callable[[], int],
        headcount: Headcount | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make = make
        self._held = held
        self._headcount = headcount
        self.opening = set[asyncio.Task[object]]()  # taken, and not yet among those held
        self._timer: asyncio.TimerHandle | None = None
        self._gave_way_at: float | None = None
        self._is_closed = False
        listener.setblocking(False)
        self._waiting = select.poll()
        self._waiting.register(listener, select.POLLIN)
        self.tell()
        self._loop.add_reader(listener, self._come)

    def tell(self) -> None:
        """Let the other workers know how many connections this one holds."""
        if self._headcount is not None and not self._is_closed:
            self._headcount.tell(self._held() + len(self.opening))

    def open(self, connection: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """Serve this connection."""
        connection.setblocking(False)
        opening = self._loop.create_task(self._loop.connect_accepted_socket(make, connection))
        self.opening.add(opening)
        opening.add_done_callback(self._opened)
        self.tell()

    async def close(self) -> None:
        """Take no more, and open what was taken; what waits is for the other workers."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._is_closed = True
        if self._headcount is not None:
            self._headcount.tell(ABSENT)
        if self.opening:
            await asyncio.wait(self.opening)

    def _come(self) -> None:
        """Somebody waits: take one, or give way for a moment."""
        self.tell()
        now = self._loop.time()
        if self._headcount is None or not self._headcount.is_ahead:
            self._take()
            self._gave_way_at = None
        elif self._gave_way_at is None or now - self._gave_way_at < PATIENCE_SECONDS:
            self._gave_way_at = self._gave_way_at or now
            self._pause(LOOK_SECONDS)
        else:
            while self._take():
                pass
            self._gave_way_at = None

    def _take(self) -> bool:
        """Whether a connection waited; it is this worker's now."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:  # no more files or memory for this process
            log.warning("connection_refused", reason=error.strerror)
            self._pause(FULL_SECONDS)
            return False
        self.open(connection, self._make)
        return True

    def _opened(self, opening: asyncio.Task[object]) -> None:
        self.opening.discard(opening)
        if not opening.cancelled() and (error := opening.exception()) is not None:
            log.warning("connection_lost", reason=str(error))  # before anything was read

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        if not self._waiting.poll(0):
            self._gave_way_at = None
        self._loop.add_reader(self._listener, self._come)
