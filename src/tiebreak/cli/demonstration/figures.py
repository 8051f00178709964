"""What the demo's live decisions are worth, measured by what the simulation knows of their ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiebreak.core.bands import Band

Decision = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Worth:
    """Bad ends found when people look at the same number of tickets, chosen in three ways."""

    tickets: int
    looked_at: int
    bad: int
    found_by_policy: int
    found_by_rules: float  # expected: equal tickets are drawn by lot
    found_by_chance: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts over the live decisions."""

    bands: Mapping[str, int]
    routes: Mapping[str, int]
    reasons: Mapping[str, int]
    ties: int
    scored: int
    worth: Worth


def figures(decisions: Sequence[Decision], ends: Mapping[str, bool]) -> Figures:
    """The figures of decisions, given whether each ticket comes to a bad end."""
    bands = Counter(decision["band"] for decision in decisions)
    return Figures(
        bands={band.label: bands[band.label] for band in Band},
        routes=dict(Counter(decision["route"] for decision in decisions).most_common()),
        reasons=dict(Counter(decision["route_reason"] for decision in decisions).most_common()),
        ties=sum(decision["is_tie"] for decision in decisions),
        scored=sum(decision["model"]["status"] == "scored" for decision in decisions),
        worth=worth(decisions, ends),
    )


def worth(decisions: Sequence[Decision], ends: Mapping[str, bool]) -> Worth:
    """What policy and rules alone find when people look at as many tickets as the policy sends."""
    bad = [ends[decision["ticket_id"]] for decision in decisions]
    is_sent = [decision["route"] != "auto" for decision in decisions]
    rules = [
        (Band.of(decision["rules"]["band"]), decision["rules"]["points"]) for decision in decisions
    ]
    looked_at = sum(is_sent)
    return Worth(
        tickets=len(decisions),
        looked_at=looked_at,
        bad=sum(bad),
        found_by_policy=sum(b for b, sent in zip(bad, is_sent, strict=True) if sent),
        found_by_rules=found_in_top(looked_at, rules, bad),
        found_by_chance=looked_at * sum(bad) / len(bad) if bad else 0.0,
    )


def found_in_top(count: int, keys: Sequence[tuple[int, int]], bad: Sequence[bool]) -> float:
    """Expected bad ends among the `count` rows of the highest keys; equal keys are drawn by lot."""
    groups: dict[tuple[int, int], list[bool]] = {}
    for key, is_bad in zip(keys, bad, strict=True):
        groups.setdefault(key, []).append(is_bad)
    found, left = 0.0, count
    for key in sorted(groups, reverse=True):
        group = groups[key]
        taken = min(left, len(group))
        found += sum(group) * taken / len(group)
        left -= taken
    return found


def most_telling(decisions: Sequence[Decision]) -> Decision:
    """The decision to explain: of a high band, with rules and model at work, a tie if possible."""

    def tells(decision: Decision) -> tuple[bool, int, float]:
        is_scored = decision["model"]["status"] == "scored"
        fired = decision["rules"]["fired"] or ()
        score = decision["model"].get("score", 0.0)
        return is_scored and bool(fired), Band.of(decision["band"]) + decision["is_tie"], score

    return max(decisions, key=tells)
