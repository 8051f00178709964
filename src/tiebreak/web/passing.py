"""Passing connections on to other workers: a few tickets meet in one, many spread over all.

Nearly all that a small batch costs it costs whatever it holds. Two workers with a few tickets each
pay that twice, and get in each other's way in the database; so the last one that has work lets the
first that can bear it have its connections, one after another, as each has got its answer. A worker
whose batches grow large gives half of what it has more to the one that holds fewest.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from tiebreak.supervised.headcount import Headcount, Told
from tiebreak.supervised.inboxes import Inboxes

GATHER_UP_TO = 20  # tickets in the batches of two workers together
SPREAD_FROM = 32  # tickets in a batch of one: what it costs is by then mostly the tickets'
LOOKS = 5  # over so many, ten a second, a batch is averaged

Counts = tuple[int, int]  # tickets and batches since the start


class Wish(NamedTuple):
    """To whom connections shall go, and how many."""

    place: int
    connections: int


def wish(told: Sequence[Told], mine: int) -> Wish | None:
    """What the worker at place `mine` shall pass on, by what all of them told last."""
    me = told[mine]
    others = [place for place, each in enumerate(told) if each.is_there and place != mine]
    if me.batch >= SPREAD_FROM:
        fewest = min(others, key=lambda place: told[place].connections, default=mine)
        surplus = me.connections - told[fewest].connections
        return Wish(fewest, surplus // 2) if surplus > 1 else None
    if not me.batch or any(place > mine and told[place].batch for place in others):
        return None
    for place in others:
        if place < mine and told[place].batch + me.batch <= GATHER_UP_TO:
            return Wish(place, me.connections)
    return None


class Passing:
    """One worker's part in it: `look` ten times a second, and `pass_on` what has been answered."""

    def __init__(self, headcount: Headcount, inboxes: Inboxes) -> None:
        self._headcount = headcount
        self._inboxes = inboxes
        self._past = deque[Counts]([(0, 0)], maxlen=LOOKS + 1)
        self._wish: Wish | None = None
        self._left = 0  # to be passed on until the next look
        self._is_stopped = False

    def stop(self) -> None:
        """Pass on no more, nor tell the others anything."""
        self._is_stopped = True
        self._left = 0

    def look(self, counts: Counts) -> None:
        """Tell the others how large batches are, and see what to pass on until the next look."""
        if self._is_stopped:
            return
        self._past.append(counts)
        tickets, batches = (now - past for now, past in zip(counts, self._past[0], strict=True))
        self._headcount.tell_batch(math.ceil(tickets / batches) if batches else 0)
        self._wish = wish(self._headcount.everybody(), self._headcount.place)
        self._left = 0 if self._wish is None else self._wish.connections

    def pass_on(self, transport: asyncio.Transport) -> bool:
        """Pass this connection on, of which nothing is under way, if one shall be."""
        if self._wish is None or not self._left or transport.get_write_buffer_size():
            return False
        number = transport.get_extra_info("socket").fileno()
        if not self._inboxes.give(number, self._wish.place):
            return False
        self._left -= 1
        return True
