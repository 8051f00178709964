"""One worker process: serves the application on a listening socket until it is told to stop.

    python -m tiebreak.web.worker [--fd N] [--heartbeat-fd M]
        [--headcount-fd L --place P [--inbox-fds A,B,…]]

With `--fd` it takes connections from an inherited socket that is bound already; so several
workers share one port, and connections wait in the socket while a worker is restarted. With
`--headcount-fd` each takes its part of them, and with `--inbox-fds` they pass some on to each
other. On SIGTERM it stops accepting, ends batches after the lines it has read, answers everything
that is queued, with a word to each client that the connection ends here, and closes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import os
import socket
from functools import partial

import uvicorn

from tiebreak.settings import Keyring, Settings
from tiebreak.supervised.headcount import Headcount
from tiebreak.supervised.inboxes import Inboxes
from tiebreak.web import logs
from tiebreak.web.accepting import Acceptor
from tiebreak.web.app import create_app
from tiebreak.web.metrics import Metrics
from tiebreak.web.passing import Passing
from tiebreak.web.protocol import Protocol
from tiebreak.web.site import Site

BACKLOG = 2048
COLLECT_AFTER = (20_000, 20, 50)  # a batch allocates thousands of objects that soon go
LINGER_SECONDS = 1.0  # a request may be on its way on any open connection
LINGER_LOOKS = 50


class Worker(uvicorn.Server):
    """A server that says that it drains before it waits for its connections."""

    def __init__(self, config: uvicorn.Config, draining: asyncio.Event) -> None:
        super().__init__(config)
        self._draining = draining
        self.heartbeat: int | None = None  # a pipe's number
        self.headcount: Headcount | None = None
        self.inboxes: Inboxes | None = None
        self._passing: Passing | None = None
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, spare the collector what lives as long as the process, and take connections."""
        await super().startup([])
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        self._acceptors = [
            Acceptor(each, self._protocol, self._held, self.headcount) for each in sockets or ()
        ]
        if self.headcount is not None and self.inboxes is not None:
            self._passing = Passing(self.headcount, self.inboxes)
            asyncio.get_running_loop().add_reader(self.inboxes.mine, self._adopt, self.inboxes)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; each second tell the supervisor that the event loop turns."""
        for acceptor in self._acceptors:
            acceptor.tell()
        if self._passing is not None:
            site: Site = self.lifespan.state["site"]
            self._passing.look(site.service.counts)
        if self.heartbeat is not None and counter % 10 == 0:
            with contextlib.suppress(OSError):  # full or closed: the supervisor has seen enough
                os.write(self.heartbeat, b".")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Stop accepting, let connections end after an answer or fall idle, close."""
        self._draining.set()
        if self._passing is not None:
            self._passing.stop()
        for acceptor in self._acceptors:
            await acceptor.close()
        for _ in range(LINGER_LOOKS):
            if not self.server_state.connections:
                break
            await asyncio.sleep(LINGER_SECONDS / LINGER_LOOKS)
        await super().shutdown()

    def _protocol(self) -> asyncio.Protocol:
        return self._made(is_passed=False)

    def _made(self, *, is_passed: bool) -> Protocol:
        return Protocol(
            self.config,
            self.server_state,
            self.lifespan.state,
            passing=self._passing,
            is_passed=is_passed,
        )

    def _adopt(self, inboxes: Inboxes) -> None:
        """Serve what other workers passed on."""
        for connection in inboxes.take():
            self._acceptors[0].open(connection, partial(self._made, is_passed=True))

    def _held(self) -> int:
        return len(self.server_state.connections)


def worker(settings: Settings, keyring: Keyring, metrics: Metrics) -> Worker:
    """A worker ready to `run` on a listening socket."""
    draining = asyncio.Event()
    config = uvicorn.Config(
        create_app(settings, keyring, metrics, draining),
        http=Protocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(settings.api.drain_seconds),
    )
    return Worker(config, draining)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that child processes may inherit."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.set_inheritable(True)
    return listener


def main() -> None:
    """Run a worker by the environment's settings."""
    parser = argparse.ArgumentParser(description="Serve the API with one process.")
    parser.add_argument("--fd", type=int, help="an inherited listening socket")
    parser.add_argument("--heartbeat-fd", type=int, help="an inherited pipe to tell that we live")
    parser.add_argument("--headcount-fd", type=int, help="an inherited file of connections held")
    parser.add_argument("--place", type=int, default=0, help="this worker's in that file, from 0")
    parser.add_argument("--inbox-fds", help="inherited inboxes, two numbers for each place")
    arguments = parser.parse_args()
    settings = Settings.load()
    logs.configure(settings.log)
    metrics = Metrics(settings.data_dir / "metrics")
    listener = (
        listen(settings.api.host, settings.api.port)
        if arguments.fd is None
        else socket.socket(fileno=arguments.fd)
    )
    server = worker(settings, Keyring.load(settings), metrics)
    server.heartbeat = arguments.heartbeat_fd
    if arguments.headcount_fd is not None:
        server.headcount = Headcount(arguments.headcount_fd, arguments.place)
        if arguments.inbox_fds is not None:
            numbers = [int(number) for number in arguments.inbox_fds.split(",")]
            server.inboxes = Inboxes(numbers, arguments.place)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
