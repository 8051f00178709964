"""Processes that do one task after another, and end when the process that started them does.

Nothing heavy is imported here: a worker says how many threads Polars may use before it meets it.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from tiebreak.errors import Unavailable

PATIENCE_SECONDS = 5.0

T = TypeVar("T")
R = TypeVar("R")
Make = Callable[[], AbstractContextManager[Callable[[T], R]]]


class WorkerLost(Unavailable):
    """A worker process ended before its task did."""

    code = "worker_lost"


def work(make: Make[T, R], tasks: Iterable[T], jobs: int) -> Iterator[R]:
    """The results of the tasks as they finish, in any order; at most `jobs` processes at once.

    `make` is pickled and called once in each process; it opens what turns a task into its
    result. An error of a task is raised here. Raises `WorkerLost`.
    """
    waiting = deque(tasks)
    with _processes(make, min(jobs, len(waiting))) as connections:
        busy: set[Connection] = set()
        for connection in connections:
            connection.send(waiting.popleft())
            busy.add(connection)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                result = _received(ready)
                if waiting:
                    ready.send(waiting.popleft())
                else:
                    busy.remove(ready)
                yield result


@contextmanager
def _processes(make: Make[T, R], count: int) -> Generator[list[Connection]]:
    context = get_context("spawn")  # never fork: Polars has threads
    started: list[tuple[Connection, BaseProcess]] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, pickle.dumps(make)), daemon=True)
            process.start()
            theirs.close()  # so that a worker sees the end of its pipe when we are gone
            started.append((ours, process))
        yield [connection for connection, _ in started]
    except BaseException:
        for _, process in started:
            process.terminate()
        raise
    finally:
        for connection, process in started:
            connection.close()
            process.join(PATIENCE_SECONDS)
            process.kill()


def _received(connection: Connection) -> Any:
    try:
        is_done, result = connection.recv()
    except (EOFError, OSError):
        raise WorkerLost(hint="Was memory short? Run the same command again; it goes on.") from None
    if not is_done:
        raise result
    return result


def _serve(connection: Connection, make: bytes) -> None:
    """A worker's life: tasks come in, results or errors go out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started us ends us
    os.environ["POLARS_MAX_THREADS"] = "1"
    with suppress(EOFError, OSError):
        try:
            with pickle.loads(make)() as do:  # noqa: S301 - from our own parent
                while True:
                    task = connection.recv()
                    connection.send((True, do(task)))
        except (EOFError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - it is raised again by the parent
            connection.send((False, error))
