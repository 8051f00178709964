"""Deciding stored tickets by the policy under test, and tallying that beside what was before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from tiebreak.backtest.flips import ROUTES, TRUTHS, Tally
from tiebreak.backtest.window import Key, Row
from tiebreak.core.decide import Decisions, decide
from tiebreak.core.policy import Policy
from tiebreak.core.stored import loaded_columns
from tiebreak.core.tickets import ticket_schema
from tiebreak.training.labels import Labels

Verdict = tuple[int, int, bool]  # band, route, whether it is a tie
_ROUTE_CODES = {route: code for code, route in enumerate(ROUTES)}
_TRUTH_CODES = {
    None: TRUTHS.index("unknown"),
    False: TRUTHS.index("negative"),
    True: TRUTHS.index("positive"),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The policy under test, the one in production for tickets without a decision, segments."""

    candidate: Policy
    production: Policy | None
    by: tuple[str, ...]

    def tally(
        self,
        tickets: Sequence[Row],
        stored: Mapping[Key, Row],
        labels: Labels | None,
        context: pl.DataFrame | None = None,
    ) -> Tally:
        """Decide and count ticket rows; `context` (by their order) replaces the stored one."""
        rows = [row for row in tickets if row["content"] is not None]
        known = [stored.get((row["ticket_id"], row["revision"])) for row in rows]
        before = self._before(rows, known)
        decided = [i for i, each in enumerate(before) if each is not None]
        skipped = Counter(
            erased=len(tickets) - len(rows), without_baseline=len(rows) - len(decided)
        )
        if len(decided) < len(rows):
            rows, known = [rows[i] for i in decided], [known[i] for i in decided]
            before = [before[i] for i in decided]
            context = None if context is None else context[decided]
        if not rows:
            return Tally(skipped=+skipped)
        decisions = _decide(rows, self.candidate, context)
        tally = Tally.of(self._columns(rows, known, before, decisions, labels), self.by)
        tally.skipped = +skipped
        stored_count = sum(row is not None for row in known)
        tally.sources = +Counter(stored=stored_count, recomputed=len(rows) - stored_count)
        tally.errors = _errors(decisions)
        tally.marks = +Counter(
            ties_before=sum(each[2] for each in before if each is not None),
            ties_after=int(decisions.arbitration.is_tie.sum()),
            before_valid_from=self._before_valid_from(decisions),
        )
        return tally

    def _before_valid_from(self, decisions: Decisions) -> int:
        """Tickets on which the model may have been trained, since they lie before its cut."""
        model = self.candidate.model
        if model is None or "valid_from" not in model.manifest.get("parameters", {}):
            return 0
        moment = datetime.fromisoformat(model.manifest["parameters"]["valid_from"])
        return int((decisions.frame["as_of"] < moment).sum())

    def _before(self, rows: Sequence[Row], known: Sequence[Row | None]) -> list[Verdict | None]:
        """Band, route and tie of each ticket as it was decided, or as production decides it."""
        before: list[Verdict | None] = [
            None if k is None else (k["band"], _ROUTE_CODES[k["route"]], bool(k["is_tie"]))
            for k in known
        ]
        missing = [i for i, each in enumerate(before) if each is None]
        if self.production is not None and missing:
            again = _decide([rows[i] for i in missing], self.production)
            verdicts = zip(*_verdicts(again), strict=True)
            for i, verdict in zip(missing, verdicts, strict=True):
                before[i] = verdict
        return before

    def _columns(
        self,
        rows: Sequence[Row],
        known: Sequence[Row | None],
        before: Sequence[Any],
        decisions: Decisions,
        labels: Labels | None,
    ) -> pl.DataFrame:
        bands, routes, _ = zip(*before, strict=True)
        band, route, _ = _verdicts(decisions)
        as_of = decisions.frame["as_of"]
        columns = {
            "ticket_id": pl.Series([row["ticket_id"] for row in rows]),
            "revision": pl.Series([row["revision"] for row in rows]),
            "decision_id": pl.Series(
                [None if k is None else str(k["decision_id"]) for k in known], dtype=pl.String
            ),
            "ticket_hash": decisions.frame["ticket_hash"],
            "as_of": as_of.dt.to_string("iso:strict"),
            "month": as_of.dt.strftime("%Y-%m"),
            "band_before": pl.Series(bands, dtype=pl.Int64),
            "band_after": pl.Series(band, dtype=pl.Int64),
            "route_before": pl.Series(routes, dtype=pl.Int64),
            "route_after": pl.Series(route, dtype=pl.Int64),
            "truth": pl.Series(_truths(rows, labels), dtype=pl.Int64),
        }
        segments = {f"by {name}": decisions.frame[name] for name in self.by}
        return pl.DataFrame(columns | segments)


def _decide(rows: Sequence[Row], policy: Policy, context: pl.DataFrame | None = None) -> Decisions:
    names = policy.features_plan.history.context_columns
    frame, stored = loaded_columns(
        rows, ticket_schema(policy.workflow), names if context is None else ()
    )
    return decide(frame, stored if context is None else context, policy)


def _verdicts(decisions: Decisions) -> tuple[list[int], list[int], list[bool]]:
    verdict = decisions.arbitration
    return verdict.band.tolist(), verdict.route.tolist(), verdict.is_tie.tolist()


def _truths(rows: Sequence[Row], labels: Labels | None) -> list[int]:
    if labels is None:
        return [_TRUTH_CODES[None]] * len(rows)
    told = [labels.of(row["ticket_id"], row["as_of"]) for row in rows]
    return [_TRUTH_CODES[None if label is None else label.value] for label in told]


def _errors(decisions: Decisions) -> Counter[str]:
    found: Counter[str] = Counter()
    for error in decisions.rules.errors:
        for code, count in error.codes.drop_nulls().value_counts().iter_rows():
            found[f"{error.where}: {code}"] += count
    return found
