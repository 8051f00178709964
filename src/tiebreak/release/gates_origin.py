"""Gates over where evidence comes from: whose it is, and that it can be made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tiebreak.backtest.outcomes import cost
from tiebreak.core.release_plan import BacktestLimits, ReplayLimits
from tiebreak.release.gate_results import Again, Gathered, Result, Verdict
from tiebreak.release.states import Stage

LEAST_REPLAYED = 20


def current(gathered: Gathered) -> Result:
    """Whether production is what the candidate was compared with."""
    is_same = gathered.base_seq == gathered.production_seq
    return Result(
        "current",
        Verdict.PASS if is_same else Verdict.FAIL,
        gathered.production_seq,
        gathered.base_seq,
        f"Production is record {gathered.production_seq}; the release was proposed against "
        f"{gathered.base_seq}.",
        "" if is_same else "Backtest it against today's production and rebase the release.",
    )


def signature(gathered: Gathered) -> Result:
    """Whether the model's bytes are, now, those that the policy names, signed by a known key."""
    digest = gathered.candidate.parts.bundle_digest
    if digest is None:
        return Result("signature", Verdict.PASS, None, None, "The candidate has no model.")
    if gathered.model_problem:
        hint = "Put the signed bundle back in its place."
        return Result("signature", Verdict.FAIL, None, None, gathered.model_problem, hint)
    sentence = f"Bundle {digest[:12]} is whole and signed."
    return Result("signature", Verdict.PASS, None, None, sentence)


def replay(gathered: Gathered, limits: ReplayLimits) -> Result:
    """Whether shadow scores and decisions, made again, are the same bits."""
    scores, decisions = gathered.scores_again, gathered.decisions_again
    different = scores.different + decisions.different
    problem = scores.problem or decisions.problem
    sentence = (
        f"{_again(scores)} of the sampled shadow scores and {_again(decisions)} of production's "
        "decisions came out the same."
    )
    detail = {"scores": scores.compared, "decisions": decisions.compared}
    detail["elsewhere"] = scores.elsewhere + decisions.elsewhere
    if different or problem:
        hint = "Shadow scores are not this policy's: look at `tiebreak replay` and the scorer."
        told = f"{sentence} {problem}".strip()
        return Result("replay", Verdict.FAIL, different, 0, told, hint, detail)
    needed = LEAST_REPLAYED if gathered.production is not None else 0
    if scores.compared < LEAST_REPLAYED or decisions.compared < needed:
        hint = "Leave it in shadow: what it scored and production decided is made again."
        if scores.erased:
            hint += f" {scores.erased:,} of the sampled tickets are erased and cannot be."
        return Result("replay", Verdict.NO_EVIDENCE, 0, 0, sentence, hint, detail)
    return Result("replay", Verdict.PASS, 0, 0, sentence, "", detail | {"sample": limits.sample})


def backtest(gathered: Gathered, limits: BacktestLimits) -> Result:
    """Whether the release's backtest is there, covers enough, and stays within its limits."""
    found = gathered.backtest
    if found is None:
        hint = "Run `tiebreak backtest run` with this policy and propose it anew."
        return Result("backtest", Verdict.NO_EVIDENCE, None, None, gathered.backtest_problem, hint)
    figures, tickets = found["figures"], found["figures"]["tickets"]
    days = _days(found["window"])
    if tickets < limits.tickets or days < limits.days:
        sentence = (
            f"The backtest covers {tickets:,} tickets of {days:.0f} days; {limits.tickets:,} of "
            f"{limits.days:g} are needed."
        )
        hint = "Run `tiebreak backtest run` over a longer window and propose it anew."
        return Result("backtest", Verdict.NO_EVIDENCE, tickets, limits.tickets, sentence, hint)
    flips = figures["flips"] / tickets
    rises = {
        "missed": (_rise(figures["missed"]), limits.missed),
        "needless": (_rise(figures["needless_reviews"]), limits.needless),
        "hours": (_rise(figures["reviewer_hours"]), limits.hours),
    }
    costs = cost(figures, gathered.plan)
    if costs is not None:
        rises["cost"] = (_rise(costs), limits.cost)
    over = [name for name, (rise, limit) in rises.items() if rise > limit]
    over += ["flips"] if flips > limits.flips else []
    told = ", ".join(f"{name} {rise:+.0%} (at most +{m:.0%})" for name, (rise, m) in rises.items())
    return Result(
        "backtest",
        Verdict.FAIL if over else Verdict.PASS,
        flips,
        limits.flips,
        f"On {tickets:,} tickets of {days:.0f} days {flips:.1%} flip (at most {limits.flips:.0%}); "
        f"{told}.",
        f"Too much: {', '.join(over)}. Look at `tiebreak backtest show`." if over else "",
        {name: rise for name, (rise, _) in rises.items()},
    )


def canary(gathered: Gathered) -> Result:
    """Whether the canary went through, where the workflow asks for one."""
    if gathered.stage is Stage.CANARY:
        return Result("canary", Verdict.PASS, None, None, "The canary is what comes next.")
    is_asked = gathered.plan.canary == "required"
    found = gathered.canary
    if found is None:
        verdict = Verdict.NO_EVIDENCE if is_asked else Verdict.PASS
        hint = "Let it be approved for a canary first." if is_asked else ""
        told = "No canary ran" + (", and the workflow asks for one." if is_asked else ".")
        return Result("canary", verdict, None, None, told, hint)
    least = sum(step.tickets for step in gathered.plan.canary_steps)
    verdict, hint = Verdict.PASS, ""
    if found.failed or found.below_floor:
        verdict, hint = Verdict.FAIL, "Look at what it decided, and mend it."
    elif not found.is_finished or found.decided < least:
        verdict, hint = Verdict.NO_EVIDENCE, "Let the canary go through its steps."
    return Result(
        "canary",
        verdict,
        found.decided,
        least,
        f"The canary decided {found.decided:,} tickets (at least {least:,}), {found.failed:,} "
        f"without its model, {found.below_floor:,} below a hard floor." + _early(found.early),
        hint,
    )


def _early(reasons: Sequence[str]) -> str:
    return f" Steps cut short, because: {'; '.join(reasons)}." if reasons else ""


def _again(again: Again) -> str:
    return f"{again.compared - again.different:,} of {again.compared:,}"


def _days(window: Mapping[str, Any]) -> float:
    since, until = (datetime.fromisoformat(window[name]) for name in ("since", "until"))
    return (until - since).total_seconds() / 86_400


def _rise(change: Mapping[str, float]) -> float:
    """By which share it rises; of nothing at least one is counted."""
    return (change["after"] - change["before"]) / max(change["before"], 1)
