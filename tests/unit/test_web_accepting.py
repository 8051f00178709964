"""Workers share the connections of one listening socket evenly."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tiebreak.supervised import headcount
from tiebreak.supervised.headcount import ABSENT, Headcount
from tiebreak.web.accepting import PATIENCE_SECONDS, Acceptor

Address = tuple[str, int]


@dataclass
class Taker:
    """A worker's side: what it holds, as uvicorn keeps it."""

    listener: socket.socket
    headcount: Headcount | None
    held: set[asyncio.BaseTransport] = field(default_factory=set[asyncio.BaseTransport])

    def __post_init__(self) -> None:
        self.acceptor = Acceptor(
            self.listener, lambda: _Protocol(self.held), lambda: len(self.held), self.headcount
        )


class _Protocol(asyncio.Protocol):
    def __init__(self, held: set[asyncio.BaseTransport]) -> None:
        self._held = held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._held.add(transport)


@asynccontextmanager
async def door(places: int) -> AsyncGenerator[tuple[socket.socket, list[Headcount]]]:
    """A listening socket, and each worker's place."""
    file = headcount.create(places)
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        yield listener, [Headcount(file, place) for place in range(places)]
    os.close(file)


async def come(listener: socket.socket, count: int, *takers: Taker) -> None:
    """Connect so many clients and wait until they are taken."""
    address: Address = listener.getsockname()
    before = sum(len(taker.held) for taker in takers)
    clients = [await asyncio.open_connection(*address) for _ in range(count)]
    async with asyncio.timeout(10):
        while sum(len(taker.held) for taker in takers) < before + count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert len(clients) == count


async def test_the_one_who_holds_fewer_takes_what_comes() -> None:
    async with door(2) as (listener, places):
        first = Taker(listener.dup(), places[0])
        await come(listener, 12, first)
        second = Taker(listener.dup(), places[1])
        await come(listener, 7, first, second)
        for _ in range(3):
            await asyncio.sleep(2 * PATIENCE_SECONDS)  # nobody gives way any more
            await come(listener, 1, first, second)
        assert (len(first.held), len(second.held)) == (12, 10)
        await come(listener, 20, first, second)
        assert (len(first.held), len(second.held)) == (21, 21)


async def test_one_who_does_not_come_is_not_waited_for_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tiebreak.web.accepting.PATIENCE_SECONDS", 0.5)
    async with door(2) as (listener, places):
        places[1].tell(0)  # and is killed
        only = Taker(listener.dup(), places[0])
        await come(listener, 100, only)


async def test_one_who_stops_leaves_the_rest_to_the_others() -> None:
    async with door(2) as (listener, places):
        first, second = (Taker(listener.dup(), place) for place in places)
        await first.acceptor.close()
        assert not places[1].is_ahead
        await come(listener, 5, second)
        assert not places[1].is_ahead
        assert len(second.held) == 5


async def test_what_is_passed_to_one_who_stops_is_served_and_calls_nobody() -> None:
    async with door(1) as (listener, places):
        only = Taker(listener.dup(), places[0])
        await only.acceptor.close()
        with socket.create_connection(listener.getsockname()):
            passed = listener.accept()[0]
            only.acceptor.open(passed, lambda: _Protocol(only.held))
            await asyncio.wait(only.acceptor.opening)
        assert len(only.held) == 1
        assert [each.connections for each in places[0].everybody()] == [ABSENT]


async def test_what_was_taken_is_opened_before_a_worker_closes() -> None:
    async with door(1) as (listener, _):
        only = Taker(listener.dup(), None)
        while not only.acceptor.opening:
            socket.create_connection(listener.getsockname()).close()
            await asyncio.sleep(0)
        before = len(only.held)
        await only.acceptor.close()
        assert len(only.held) > before
        assert not only.acceptor.opening


async def test_alone_all_are_taken() -> None:
    async with door(1) as (listener, _):
        only = Taker(listener.dup(), None)
        await come(listener, 30, only)


class _Full(socket.socket):
    """A listening socket of a process that can open no more files, once."""

    is_full = True

    def accept(self) -> tuple[socket.socket, Address]:
        if self.is_full:
            self.is_full = False
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_process_that_can_hold_no_more_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tiebreak.web.accepting.FULL_SECONDS", 0.05)
    async with door(1) as (listener, _):
        full = _Full(fileno=listener.dup().detach())
        only = Taker(full, None)
        await come(listener, 3, only)
        assert not full.is_full


def test_places_begin_empty_and_are_told_apart() -> None:
    file = headcount.create(3)
    places = [Headcount(file, place) for place in range(3)]
    os.close(file)
    assert not any(place.is_ahead for place in places)
    places[0].tell(0)
    places[2].tell(1)
    assert [place.is_ahead for place in places] == [False, False, True]
    places[0].tell(ABSENT)
    assert not places[2].is_ahead
