"""Worker processes: every task once, errors told, and nobody left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager

import psutil
import pytest

from tiebreak.backtest.workers import WorkerLost, work
from tiebreak.errors import InvalidInput


@contextmanager
def squares() -> Generator[Callable[[int], tuple[int, str]]]:
    def do(number: int) -> tuple[int, str]:
        if number == 13:
            raise InvalidInput("not this one", hint="another")
        if number == 14:
            os._exit(1)
        return number * number, os.environ["POLARS_MAX_THREADS"]

    yield do


@contextmanager
def broken() -> Generator[Callable[[int], int]]:
    raise InvalidInput("cannot be opened")
    yield int


def test_every_task_is_done_once() -> None:
    assert sorted(work(squares, range(10), 3)) == [(i * i, "1") for i in range(10)]
    assert list(work(squares, [], 3)) == []


@pytest.mark.parametrize("numbers", [[1, 13, 2], [13]])
def test_an_error_of_a_task_is_raised_whole(numbers: list[int]) -> None:
    with pytest.raises(InvalidInput, match="not this one") as raised:
        list(work(squares, numbers, 2))
    assert raised.value.hint == "another"
    assert _workers() == []


def test_an_error_while_opening_is_raised_too() -> None:
    with pytest.raises(InvalidInput, match="cannot be opened"):
        list(work(broken, [1, 2], 2))


def test_a_worker_that_is_killed_is_told() -> None:
    with pytest.raises(WorkerLost):
        list(work(squares, [1, 14], 1))


def _workers() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
