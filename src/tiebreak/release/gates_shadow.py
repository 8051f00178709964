"""Gates over what a candidate scored in shadow: how much, how whole, how fast, what it flips."""

from __future__ import annotations

import numpy as np

from tiebreak.core.bands import Band
from tiebreak.core.release_plan import (
    ErrorLimits,
    FlipLimits,
    LabelLimits,
    LatencyLimits,
    ReviewedFlipLimits,
    VolumeLimits,
)
from tiebreak.release.gate_columns import DAY_MICROSECONDS
from tiebreak.release.gate_results import Gathered, Result, Verdict

UNNOTICED_SECONDS = 0.001  # a ticket: below, it does not matter how fast production is
LEFT_OUT = (
    "Find out on which tickets the candidate fails. Where its shadow was given a smaller share or "
    "left a time out, start it again with the larger `--share`, or that `--since`."
)
OUTCOMES_FIRST = "Put `outcome` first in `label.precedence`, with `absent: unknown`."
SHADOW_ON = "Leave it in shadow, or let it score from an earlier moment on."


def volume(gathered: Gathered, limits: VolumeLimits) -> Result:
    """Tickets scored beside today's production, and the days between the first and the last."""
    scored = gathered.scored
    days = float(np.ptp(scored["as_of"]) / DAY_MICROSECONDS) if scored.count else 0.0
    is_enough = scored.count >= limits.tickets and days >= limits.days
    return Result(
        "volume",
        Verdict.PASS if is_enough else Verdict.NO_EVIDENCE,
        scored.count,
        limits.tickets,
        f"{scored.count:,} tickets of {days:.1f} days are scored beside today's production; "
        f"{limits.tickets:,} of {limits.days:g} days are needed.",
        "" if is_enough else SHADOW_ON,
        {"days": days},
    )


def labels(gathered: Gathered, limits: LabelLimits) -> Result:
    """Scored tickets with a mature label."""
    scored, problem = gathered.scored, gathered.label_problem
    if problem:
        return Result("labels", Verdict.NO_EVIDENCE, None, limits.count, problem, OUTCOMES_FIRST)
    count, positives = int(scored.is_labelled.sum()), int((scored.truth == 1).sum())
    is_enough = count >= limits.count and min(positives, count - positives) >= limits.positives
    return Result(
        "labels",
        Verdict.PASS if is_enough else Verdict.NO_EVIDENCE,
        count,
        limits.count,
        f"{count:,} scored tickets have a mature label, {positives:,} of them a bad end; "
        f"{limits.count:,} with {limits.positives:,} of either end are needed.",
        "" if is_enough else f"Wait until outcomes are known and mature. {SHADOW_ON}",
        {"positives": positives},
    )


def errors(gathered: Gathered, limits: ErrorLimits) -> Result:
    """The share of tickets that the candidate left without its score."""
    coverage, scored = gathered.coverage, gathered.scored
    if coverage.quarantine is not None:
        sentence = f"The candidate is in quarantine: {coverage.quarantine}"
        hint = "Mend the candidate and propose it anew, or start its shadow again."
        return Result("errors", Verdict.FAIL, None, limits.share, sentence, hint)
    if not scored.count:
        sentence = "The candidate has scored nothing beside today's production."
        return Result(
            "errors", Verdict.NO_EVIDENCE, None, limits.share, sentence, "Start its shadow."
        )
    without = 0
    if gathered.candidate.parts.bundle_digest is not None:
        without = int(np.isnan(scored["score"]).sum())
    left = coverage.unscored or 0
    share = (without + left) / (scored.count + left)
    is_few = share <= limits.share
    told = "" if coverage.share == 1 else f" Its share of {coverage.share:.2%} selects them."
    if coverage.earlier:
        told += f" It was in quarantine before: {'; '.join(coverage.earlier)}"
    return Result(
        "errors",
        Verdict.PASS if is_few else Verdict.FAIL,
        share,
        limits.share,
        f"{left:,} tickets have no shadow score and {without:,} none by the model, "
        f"{share:.2%} of {scored.count + left:,}; at most {limits.share:.2%} may.{told}",
        "" if is_few else LEFT_OUT,
        {
            "unscored": coverage.unscored,
            "without_model": without,
            "quarantines": list(coverage.earlier),
        },
    )


def floors(gathered: Gathered) -> Result:
    """Tickets below a hard floor of production or of the candidate itself; there must be none."""
    scored = gathered.scored
    floor = np.maximum(scored["floor"], scored["floor_before"])
    below = int((scored["band"] < floor).sum())
    if not scored.count:
        sentence = "Nothing is scored, so no floor was put to the test."
        return Result("floors", Verdict.NO_EVIDENCE, None, 0, sentence, SHADOW_ON)
    return Result(
        "floors",
        Verdict.FAIL if below else Verdict.PASS,
        below,
        0,
        f"{below:,} of {scored.count:,} tickets lie below a hard floor of production's rules or of "
        "its own.",
        "No candidate may lower a hard floor: put the rule back." if below else "",
        {"floored": int((floor > Band.LOW).sum())},
    )


def flips(gathered: Gathered, limits: FlipLimits) -> Result:
    """The share of tickets in another band, and that of tickets that fall below high."""
    scored = gathered.scored
    if not scored.count:
        sentence = "Nothing is scored, so nothing is known of flips."
        return Result("flips", Verdict.NO_EVIDENCE, None, limits.share, sentence, SHADOW_ON)
    band, before = scored["band"], scored["band_before"]
    share = float((band != before).mean())
    lowered = float(((before >= Band.HIGH) & (band < Band.HIGH)).mean())
    is_few = share <= limits.share and lowered <= limits.lowered
    return Result(
        "flips",
        Verdict.PASS if is_few else Verdict.FAIL,
        share,
        limits.share,
        f"{share:.1%} of the tickets get another band (at most {limits.share:.1%}); {lowered:.1%} "
        f"fall below high (at most {limits.lowered:.1%}).",
        "" if is_few else "Look at the examples of its backtest; recalibrate, or move the cuts.",
        {"lowered": lowered, "raised": float((band > before).mean())},
    )


def reviewed_flips(gathered: Gathered, limits: ReviewedFlipLimits) -> Result:
    """Of flips that people judged, the share in which they were nearer to the candidate."""
    count, agreeing = gathered.reviewed
    share = agreeing / count if count else None
    verdict = Verdict.PASS
    if count < limits.count:
        verdict = Verdict.NO_EVIDENCE
    elif limits.count and share is not None and share < limits.agreeing:
        verdict = Verdict.FAIL
    told = "" if share is None else f", {share:.0%} of them for the candidate"
    return Result(
        "reviewed_flips",
        verdict,
        share,
        limits.agreeing,
        f"People judged {count:,} flips{told}; {limits.count:,} are needed"
        + (f" and {limits.agreeing:.0%} for it." if limits.count else "."),
        "Have people review tickets that flip." if verdict is Verdict.NO_EVIDENCE else "",
        {"count": count},
    )


def latency(gathered: Gathered, limits: LatencyLimits) -> Result:
    """Seconds a ticket in shadow (95 of 100 are faster), and beside production's."""
    seconds = gathered.scored["seconds"]
    mine, others = gathered.scores_again.seconds, gathered.decisions_again.seconds
    if not len(seconds) or mine is None:
        sentence = "Nothing is scored, so nothing is known of its speed."
        return Result("latency", Verdict.NO_EVIDENCE, None, limits.seconds, sentence, SHADOW_ON)
    slow = float(np.quantile(seconds, 0.95))
    production = gathered.production
    has_model = production is not None and production.parts.bundle_digest is not None
    times = mine / others if others and has_model else None  # rules alone are no measure
    is_near = times is None or times <= limits.times or mine <= UNNOTICED_SECONDS
    is_fast = slow <= limits.seconds and is_near
    beside = ""
    if times is not None:
        beside = f", {times:.1f} times production's time (at most {limits.times:g} from 1 ms on)"
    return Result(
        "latency",
        Verdict.PASS if is_fast else Verdict.FAIL,
        slow,
        limits.seconds,
        f"A ticket takes up to {slow * 1e3:.2f} ms in shadow (at most {limits.seconds * 1e3:g})"
        f"{beside}.",
        "" if is_fast else "Train fewer or shallower trees, or simplify features.",
        {"times": times, "seconds": mine, "seconds_of_production": others},
    )
