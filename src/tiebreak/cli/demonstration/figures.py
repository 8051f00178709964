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
    """Bad ends that people meet in as many tickets as went to them, taken from the top of a list.

    Equal tickets are drawn by lot, so the numbers are expectations.
    """

    tickets: int
    looked_at: int
    bad: int
    found_by_policy: float  # by final band, then score
    found_by_rules: float  # by the rules' band, then points
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
    """What rules and model find beside rules alone, in as many tickets as went to people."""
    bad = [ends[decision["ticket_id"]] for decision in decisions]
    policy = [(Band.of(d["band"]), d["model"].get("score", 0.0)) for d in decisions]
    rules = [(Band.of(d["rules"]["band"]), d["rules"]["points"]) for d in decisions]
    looked_at = sum(decision["route"] != "auto" for decision in decisions)
    return Worth(
        tickets=len(decisions),
        looked_at=looked_at,
        bad=sum(bad),
        found_by_policy=found_in_top(looked_at, policy, bad),
        found_by_rules=found_in_top(looked_at, rules, bad),
        found_by_chance=looked_at * sum(bad) / len(bad) if bad else 0.0,
    )


def found_in_top(count: int, keys: Sequence[tuple[int, float]], bad: Sequence[bool]) -> float:
    """Expected bad ends among the `count` rows of the highest keys; equal keys are drawn by lot."""
    groups: dict[tuple[int, float], list[bool]] = {}
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
