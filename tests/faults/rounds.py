"""Rounds of faults under load: one fault, its end, and everything serves again by itself."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from tests.faults.judge import Judge
from tests.faults.kinds import KINDS, Fault, Site
from tests.faults.ledger import moment
from tests.faults.load import BOSTON, Load

log = logging.getLogger(__name__)

RECOVER_SECONDS = 600.0
LONGEST_FAULT_SECONDS = 1.0
LONGEST_CALM_SECONDS = 0.3
POLL_SECONDS = 0.02
CUT = "cut_"  # how faults that cut connections begin; their rule follows
SELDOM, SELDOM_EVERY = ("supervisor", "everything"), 3  # all programs start anew


@dataclass
class Figures:
    """What came of the rounds."""

    rounds: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)  # seconds until all serves again

    def told(self, site: Site, load: Load, judge: Judge, seconds: float) -> str:
        """A short report."""
        ledger = load.ledger
        lines = [
            f"{self.rounds.total()} rounds in {seconds:.0f} s, 0 lost, 0 doubled",
            f"acknowledged: {len(ledger.decisions)} decisions, {len(ledger.outcomes)} outcomes, "
            f"{ledger.repeats} of them again; refused with 503: {ledger.refusals[503]}",
            f"records verified: {judge.verified}; connections cut: {dict(site.cuts)}, "
            f"rounds without a cut: {dict(+site.uncut)}",
        ]
        lines += [
            f"  {name:20} {number:4} rounds, serves again within {self.slowest[name]:.1f} s"
            for name, number in sorted(self.rounds.items())
        ]
        return "\n".join(lines)


def inflictable() -> list[str]:
    """The faults that this user can inflict on this machine."""
    return [name for name, make in KINDS.items() if make().obstacle() is None]


def schedule(names: Sequence[str], rounds: int, chance: random.Random) -> list[str]:
    """Every fault in turn, each turn in another order; those that take long now and then."""
    drawn: list[str] = []
    for turn in count():
        now = [name for name in names if name not in SELDOM or turn % SELDOM_EVERY == 0]
        drawn += chance.sample(now, len(now))
        if len(drawn) >= rounds:
            break
    return drawn[:rounds]


def run(site: Site, names: Sequence[str], seed: int, *, look_every: int) -> str:
    """Rounds of these faults in this order. Raises AssertionError with seed and round."""
    figures, begun = Figures(), time.monotonic()
    chance = random.Random(seed)
    with Load(site, BOSTON, f"s{seed}", seed) as load:
        judge = Judge(site, load.ledger, chance)
        await_served(site, load, moment(), "at the start")
        for number, name in enumerate(names, 1):
            where = f"seed {seed}, round {number} of {len(names)}, {name}"
            seconds = one(site, load, KINDS[name](), chance, where)
            log.info("%s: serves again after %.1f s", where, seconds)
            figures.rounds[name] += 1
            figures.slowest[name] = max(seconds, figures.slowest.get(name, 0.0))
            if number % look_every == 0:
                _demand(site, judge.look(), where)
            time.sleep(chance.uniform(0, LONGEST_CALM_SECONDS))
    assert not load.failures, load.failures
    _demand(site, judge.finish(), f"seed {seed}, in the end")
    _demand(site, never_cut(names, site.cuts), f"seed {seed}, in the end")
    return figures.told(site, load, judge, time.monotonic() - begun)


def never_cut(names: Sequence[str], cuts: Mapping[str, int]) -> list[str]:
    """The kinds of cuts among these faults that have cut no connection in all their rounds."""
    rules = sorted({name.removeprefix(CUT) for name in names if name.startswith(CUT)})
    return [f"no connection was ever cut by {CUT}{rule}" for rule in rules if not cuts.get(rule)]


def one(site: Site, load: Load, fault: Fault, chance: random.Random, where: str) -> float:
    """One round; the seconds from the end of the fault until every kind of request is served."""
    fault.inflict(site, chance)
    try:
        time.sleep(chance.uniform(0, LONGEST_FAULT_SECONDS))
    finally:
        fault.heal(site)
    healed = moment()
    await_served(site, load, healed, where)
    return moment() - healed


def await_served(site: Site, load: Load, since: float, where: str) -> None:
    """Wait until a request of each kind that began since then is acknowledged."""
    end = time.monotonic() + RECOVER_SECONDS
    while not load.ledger.is_served_since(since):
        _demand(site, load.ledger.contradictions, where)
        assert site.is_up(), f"{where}: it has ended by itself\n{site.last_words()}"
        assert time.monotonic() < end, f"{where}: it does not recover\n{site.last_words()}"
        time.sleep(POLL_SECONDS)


def _demand(site: Site, wrong: Sequence[str], where: str) -> None:
    shown = "\n".join(wrong[:20])
    assert not wrong, f"{where}: {len(wrong)} wrong\n{shown}\n{site.last_words()}"
