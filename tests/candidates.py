"""A workflow with rules in production, imported and live tickets, and candidates beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tests import releases
from tests.keys import KEYRING

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.backtest.evidence import Evidence
from tiebreak.backtest.outcomes import figures
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.decide import decide, decide_stored
from tiebreak.core.history import HistoryPlan
from tiebreak.core.policy import Policy, PolicyParts
from tiebreak.core.release_plan import (
    BacktestLimits,
    FlipLimits,
    Gates,
    LabelLimits,
    MarginLimits,
    ReleasePlan,
    ReplayLimits,
    VolumeLimits,
)
from tiebreak.core.stored import StoredTicket, loaded_columns
from tiebreak.core.tickets import outcome_schema, submission, ticket_schema
from tiebreak.core.workflow import (
    Field,
    FieldType,
    Knobs,
    Label,
    RowFeature,
    Rule,
    RuleSet,
    Workflow,
)
from tiebreak.decisions.rows import decision_rows
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.registry import records
from tiebreak.release.releases import Office, Release, propose
from tiebreak.release.states import Kind
from tiebreak.settings import Keyring
from tiebreak.store import admission, commit, outcomes
from tiebreak.store.database import Database
from tiebreak.store.starts import Starts
from tiebreak.training.fit import Parameters
from tiebreak.training.snapshot import read_snapshot
from tiebreak.training.train import TrainingResult, train
from tiebreak.workflows import versions

NAME = "trenches"
IMPORTED_DAYS, LIVE_DAYS = 40, 20
IMPORTED_A_DAY, LIVE_A_DAY = 40, 60
NOW = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
FIRST = NOW - timedelta(days=IMPORTED_DAYS + LIVE_DAYS + 10)
LIVE_FROM = FIRST + timedelta(days=IMPORTED_DAYS)
GATES = Gates(
    volume=VolumeLimits(tickets=800, days=10),
    labels=LabelLimits(count=300, positives=30),
    pr_auc=MarginLimits(margin=0.1),
    recall=MarginLimits(margin=0.15),
    flips=FlipLimits(share=0.9, lowered=0.5),
    replay=ReplayLimits(sample=400),
    backtest=BacktestLimits(tickets=100, days=1),
)
PLAN = ReleasePlan(gates=GATES, missed_cost=900, needless_cost=15)
WORKFLOW = Workflow(
    name=NAME,
    title="Trenches",
    time="opened_at",
    fields=(
        Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),
        Field(name="depth", type=FieldType.NUMBER),
        Field(name="crew", type=FieldType.INTEGER),
        Field(name="urgent", type=FieldType.BOOLEAN),
        Field(name="method", type=FieldType.CATEGORY, values=("boring", "hand", "plough")),
        Field(name="repair_days", type=FieldType.NUMBER),
    ),
    outcome_fields=(Field(name="damage", type=FieldType.BOOLEAN),),
    features=(
        RowFeature(name="depth_m", sql="depth"),
        RowFeature(name="crew_size", sql="crew"),
        RowFeature(name="is_urgent", sql="urgent"),
        RowFeature(name="way", sql="method", kind="category"),
    ),
    label=Label(name="damage", sql="damage", maturity_days=1),
    knobs=Knobs(audit_share=0.05),
    release=PLAN,
    slices=("method",),
)
LEAKY = WORKFLOW.model_copy(
    update={"features": (*WORKFLOW.features, RowFeature(name="repair", sql="repair_days"))}
)
RULES = RuleSet(
    rules=(
        Rule(id="deep", when="depth > 2.5", effect="points", points=30, message="Deep."),
        Rule(id="boring", when="method = 'boring'", effect="points", points=25, message="Boring."),
        Rule(
            id="urgent-deep",
            when="urgent AND depth > 4",
            effect="floor",
            band="high",
            hard=True,
            message="Urgent and deep.",
        ),
    )
)


@dataclass
class World:
    """An office with rules in production, two months of tickets, and where models are kept."""

    office: Office
    evidence: Evidence
    artifacts: ArtifactStore
    keys: BundleKeys
    rules: PolicyParts

    @property
    def keyring(self) -> Keyring:
        """The keys of everything here."""
        return self.office.keyring

    @classmethod
    async def made(
        cls, db: Database, folder: Path, keyring: Keyring = KEYRING, *, is_installed: bool = True
    ) -> World:
        """Load, install the rules, import, admit live tickets, decide those, record outcomes.

        Without anything installed nothing is decided.
        """
        world = await cls.opened(db, folder, keyring)
        lane = world.office.lane
        async with lane.unit() as unit:
            for person in ("ann", "bob"):
                await ensure_person(unit, person, actor="tests")
        for version in (WORKFLOW, LEAKY):
            await versions.load(lane, version, RULES, author="ann", reason="test")
        if is_installed:
            await records.install(
                lane, keyring, world.rules, author="ann", approver="bob", reason="first"
            )
        await world._tickets(is_decided=is_installed)
        return world

    @classmethod
    async def opened(cls, db: Database, folder: Path, keyring: Keyring = KEYRING) -> World:
        """The world that was made in this database and folder."""
        lane = await Lane.open(db, "tests", keyring)
        office = releases.office_of(db, lane, keyring, folder / "artifacts")
        keys = BundleKeys(keyring.bundle_keys, keyring.bundle_signing_key_id)
        store = ArtifactStore(Folder(folder / "artifacts"))
        parts = PolicyParts(NAME, WORKFLOW.version, RULES.version)
        return cls(office, Evidence(folder / "backtests"), store, keys, parts)

    async def _tickets(self, *, is_decided: bool) -> None:
        random = np.random.default_rng(11)
        starts = Starts()
        policy = (await self.office.library.build(self.rules)).policy
        for day in range(IMPORTED_DAYS + LIVE_DAYS):
            moment = FIRST + timedelta(days=day)
            is_live = moment >= LIVE_FROM
            drawn = _drawn(random, LIVE_A_DAY if is_live else IMPORTED_A_DAY, day, moment)
            await self._day(drawn, moment, is_live, policy if is_decided else None, starts)

    async def _day(
        self,
        drawn: list[Any],
        moment: datetime,
        is_live: bool,
        policy: Policy | None,
        starts: Starts,
    ) -> None:
        schema, plan = ticket_schema(WORKFLOW), HistoryPlan(WORKFLOW)
        kept = [
            {k: v for k, v in fields.items() if not (is_live and k == "repair_days")}
            for _, fields, _ in drawn
        ]
        submissions = [
            submission(schema, key, None, fields)
            for (key, _, _), fields in zip(drawn, kept, strict=True)
        ]
        async with self.office.lane.unit() as unit:
            admitted = await admission.admit(
                unit,
                admission.prepare(plan, schema, submissions, self.keyring),
                actors=["ann"] * len(drawn),
                received_at=[moment] * len(drawn),
                starts=starts,
                as_of=moment,
                origin="live" if is_live else "import",
            )
        if is_live and policy is not None:
            await self.decide(admitted.tickets, policy)
        async with self.office.lane.unit() as unit:
            await outcomes.record(
                unit,
                NAME,
                plan,
                schema,
                outcome_schema(WORKFLOW),
                [outcomes.Report(key, "outcome", {"damage": bad}, None) for key, _, bad in drawn],
                actors=["ann"] * len(drawn),
                received_at=moment,
                keyring=self.keyring,
                at=moment + timedelta(hours=3),
            )

    async def decide_again(self, policy_hash: str) -> None:
        """Decide all live tickets by another policy, as `tickets decide-again` would."""
        policy = (await self.office.library.get(policy_hash)).policy
        schema = ticket_schema(policy.workflow)
        async with self.office.db.connection() as conn:
            rows = [dict(row) for row in await conn.fetch(_LIVE, NAME)]
        tickets = [StoredTicket.from_row(row, schema) for row in rows]
        await self.decide(tickets, policy, ordinal=2)

    async def decide(
        self, tickets: Sequence[StoredTicket], policy: Policy, ordinal: int = 1
    ) -> None:
        """Commit the policy's decisions, as serving would."""
        rows = decision_rows(
            tickets,
            decide_stored(tickets, ticket_schema(WORKFLOW), policy),
            ordinals=[ordinal] * len(tickets),
            decided_at=datetime.now(UTC),
            fingerprint=engine_fingerprint().hash,
        )
        async with self.office.lane.unit() as unit:
            await commit.commit(unit, rows)

    async def trained(
        self, workflow: Workflow = WORKFLOW, *, shuffled: bool = False
    ) -> TrainingResult:
        """A model of the imported tickets, or of their labels in a random order."""
        snapshot = await read_snapshot(
            self.office.db,
            workflow,
            known_by=LIVE_FROM - timedelta(minutes=1),
            entity_secret=self.keyring.entity_key,
        )
        if shuffled:
            snapshot = replace(snapshot, label=snapshot.label.shuffle(seed=3))
        valid_from = FIRST + timedelta(days=30)
        leaky = {"repair": "what training finds the gates must find too"}
        parameters = Parameters(
            valid_from=valid_from,
            rounds=40,
            max_depth=3,
            seed=7,
            waived=leaky if workflow is LEAKY else {},
        )
        return train(snapshot, parameters, lambda _s, _x: None, fingerprint="here")

    def bundled(self, parts: dict[str, bytes]) -> str:
        """The digest of a signed bundle of these parts."""
        return self.artifacts.put_bundle(make_bundle(parts, self.keys))

    async def proposed(
        self,
        digest: str | None,
        workflow: Workflow = WORKFLOW,
        *,
        backtest: dict[str, Any] | None = None,
        share: float = 1.0,
        **changed: Any,
    ) -> Release:
        """A release of this model, in shadow, with a backtest that changes little."""
        parts = replace(self.rules, workflow_version=workflow.version, bundle_digest=digest)
        parts = replace(parts, **changed)
        made = await releases.backtest_of(self.office, parts, **(backtest or BACKTEST))
        kept = self.evidence.put(made.evidence, made.run)
        recipe = await self.office.library.recipe(parts)
        release = await propose(self.office, recipe, kept, author="ann", reason="test")
        async with self.office.db.connection() as conn:
            await conn.execute(_PROGRESS, release.release_id, NOW)
        await releases.tell(self.office, release, Kind.SHADOW_STARTED, detail={"share": share})
        return release

    async def shadow(
        self,
        release: Release,
        *,
        batch: int = 60,
        changed: Mapping[str, Callable[[Any, Any], Any]] | None = None,
        is_whole: bool = False,
        but: Callable[[str], bool] = lambda _: False,
    ) -> int:
        """Score live tickets by the candidate, batch by batch; how many it failed on.

        `changed` makes stored values others than it gives, called with the value and 1. With
        `is_whole` imported tickets are scored too, and never those whose id is `but`.
        """
        policy = (await self.office.library.get(release.policy_hash)).policy
        async with self.office.db.connection() as conn:
            found = await conn.fetch(_ALL if is_whole else _LIVE, NAME)
        rows = [dict(row) for row in found if not but(row["ticket_id"])]
        scores: list[tuple[Any, ...]] = []
        failed = 0
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            try:
                scores += _scores(part, policy)
            except Exception:  # noqa: BLE001 - as a worker would: then ticket by ticket
                for row in part:
                    try:
                        scores += _scores([row], policy)
                    except Exception:  # noqa: BLE001
                        failed += 1
        for name, change in (changed or {}).items():
            place = COLUMNS.index(name)
            scores = [(*s[:place], change(s[place], 1), *s[place + 1 :]) for s in scores]
        async with self.office.db.connection() as conn:
            await conn.copy_records_to_table("ml_shadow_scores", records=scores, columns=COLUMNS)
        return failed


COLUMNS = (
    *("as_of", "workflow", "ticket_id", "revision", "policy_hash", "scored_at", "band", "route"),
    *("margin", "score", "hard_floor", "rules_band", "model_band", "is_tie", "seconds"),
    "fingerprint",
)
BACKTEST: dict[str, Any] = {
    "window": {"since": FIRST.isoformat(), "until": NOW.isoformat()},
    "figures": {
        **figures({}, minutes_a_review=6.0),
        "tickets": 2_000,
        "flips": 100,
        "missed": {"before": 50, "after": 45, "change": -5},
        "needless_reviews": {"before": 100, "after": 110, "change": 10},
        "reviewer_hours": {"before": 20.0, "after": 21.0, "change": 1.0},
    },
}


def _drawn(
    random: np.random.Generator, count: int, day: int, moment: datetime
) -> list[tuple[str, dict[str, Any], bool]]:
    """Tickets of a day with what became of them; repairs take days only where there is damage."""
    found: list[tuple[str, dict[str, Any], bool]] = []
    for number in range(count):
        depth, crew = float(random.gamma(2.0, 0.9)), int(random.integers(1, 12))
        urgent = bool(random.random() < 0.2)
        method = str(random.choice(["boring", "hand", "plough"]))
        odds = 0.9 * depth + 1.6 * (method == "boring") + 1.2 * urgent - 0.15 * crew - 3.0
        bad = bool(random.random() < 1 / (1 + np.exp(-odds)))
        fields = {
            "opened_at": moment,
            "depth": round(depth, 3),
            "crew": crew,
            "urgent": urgent,
            "method": method,
            "repair_days": float(random.integers(1, 9)) if bad else 0.0,
        }
        found.append((f"t-{day}-{number}", fields, bad))
    return found


def _scores(rows: Sequence[dict[str, Any]], policy: Policy) -> list[tuple[Any, ...]]:
    names = policy.features_plan.history.context_columns
    given = loaded_columns(rows, ticket_schema(policy.workflow), names)
    begun = time.perf_counter()
    made = decide(*given, policy)
    seconds = (time.perf_counter() - begun) / len(rows)
    verdict, rules, model = made.arbitration, made.rules, made.model
    nothing = [None] * len(rows)
    columns = [
        verdict.band.tolist(),
        [("auto", "tiebreak", "review")[route] for route in verdict.route.tolist()],
        nothing if model is None else model.margin.tolist(),
        nothing if model is None else model.score.tolist(),
        [floor or None for floor in rules.hard_floor.tolist()],
        rules.band.tolist(),
        nothing if model is None else model.band.tolist(),
        verdict.is_tie.tolist(),
    ]
    return [
        (
            *(row["as_of"], NAME, row["ticket_id"], row["revision"], policy.hash, NOW),
            *(values[:7]),
            *(values[7], seconds, engine_fingerprint().hash),
        )
        for row, values in zip(rows, zip(*columns, strict=True), strict=True)
    ]


_PROGRESS = """
    INSERT INTO shadow_progress (release_id, through, scored, updated_at) VALUES ($1, $2, 0, $2)
"""
_ALL = "SELECT * FROM tickets WHERE workflow = $1 ORDER BY as_of, ticket_id"
_LIVE = "SELECT * FROM tickets WHERE workflow = $1 AND origin = 'live' ORDER BY as_of, ticket_id"
