"""Whatever people do with releases, in whatever order: production is one, and nobody's alone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests import releases
from tests.databases import DatabaseUrls
from tests.keys import KEYRING
from tests.sample_models import WORKFLOW
from tests.shadowed import bundle

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.backtest import finished
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Knobs, RuleSet
from tiebreak.errors import TiebreakError
from tiebreak.registry import records
from tiebreak.release import canary, shadow
from tiebreak.release import releases as ways
from tiebreak.release.approvals import approve
from tiebreak.release.canary_plan import CanaryPlan, CanaryStep
from tiebreak.release.demotion import Target, countersign, demote
from tiebreak.release.promotion import promote, rollback
from tiebreak.release.states import VOIDING, Kind, Stage, State
from tiebreak.store.database import Database
from tiebreak.workflows import versions

PEOPLE = ("ann", "bob", "cat")
TOLD = (
    *(Kind.SHADOW_STARTED, Kind.SHADOW_STOPPED, Kind.QUARANTINED, Kind.VOIDED),
    *(Kind.CANARY_FINISHED, Kind.PROMOTED, Kind.RETIRED),
)
PLAN = CanaryPlan(steps=(CanaryStep(5, timedelta(0), 0), CanaryStep(50, timedelta(0), 0)))
MOVES = ("start", "step", "hold", "stop", "finish", "switch", "quarantine")
NEWS = ("failed", *sorted(VOIDING))
LIFETIMES = (timedelta(hours=1), timedelta(hours=1), timedelta(microseconds=1))
NUMBERS = itertools.count(1)
REACHED: Counter[str] = Counter()  # so that the test itself is seen to get somewhere
HAPPENED: Counter[Kind] = Counter()

people = st.sampled_from(PEOPLE)
pairs = st.permutations(PEOPLE)
few = st.integers(0, 3)  # of the policies; the last one has a model
some = st.integers(0, 50)  # of the releases, modulo how many there are


class Ways(RuleBasedStateMachine):
    """People who do things, allowed or not; what they leave is looked at after each."""

    url: str
    artifacts: Path

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.made: list[ways.Release] = []
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def attempt(self, name: str, work: Coroutine[Any, Any, Any]) -> Any:
        """Try it; a refusal is an answer too."""
        try:
            result = self.run(work)
        except TiebreakError:
            return None
        REACHED[name] += 1
        return result

    async def _open(self) -> None:
        self.name = f"digs_{next(NUMBERS)}"
        self.db = await Database.open(self.url, pool_size=2)
        lane = await Lane.open(self.db, "tests", KEYRING)
        async with lane.unit() as unit:
            for person in PEOPLE:
                await ensure_person(unit, person, actor="tests")
        self.office = releases.office_of(self.db, lane, KEYRING, self.artifacts)
        self.policies: list[PolicyParts] = []
        for number in range(3):
            changed = {"name": self.name, "knobs": Knobs(audit_share=number / 100)}
            version = WORKFLOW.model_copy(update=changed)
            await versions.load(lane, version, RuleSet(), author=PEOPLE[number], reason="test")
            self.policies.append(PolicyParts(self.name, version.version, RuleSet().version))
        digest = bundle(self.artifacts, "sound")
        self.modelled = replace(self.policies[-1], bundle_digest=digest)
        self.policies.append(self.modelled)
        await releases.put(self.db, lane, KEYRING, self.policies[0])

    def release(self, which: int) -> ways.Release:
        return self.made[which % len(self.made)]

    async def seq(self) -> int:
        found = (await records.current(self.db, KEYRING))[self.name]
        assert isinstance(found, records.ReleaseRecord)
        return found.seq

    @rule(policy=few, author=people)
    def propose(self, policy: int, author: str) -> None:
        work = releases.proposed(self.office, self.policies[policy], author=author)
        made = self.attempt("propose", work)
        assert made is not None
        self.made.append(made)

    @precondition(lambda self: self.made)
    @rule(which=some, kind=st.sampled_from(TOLD), actor=people)
    def tell(self, which: int, kind: Kind, actor: str) -> None:
        # The database refuses what is not true, such as a promotion without a record.
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            work = releases.tell(self.office, self.release(which), kind, actor=actor)
            self.attempt(f"tell {kind}", work)

    @precondition(lambda self: self.made)
    @rule(which=some, stage=st.sampled_from(Stage), is_passed=st.booleans())
    def gate(self, which: int, stage: Stage, is_passed: bool) -> None:
        work = releases.gated(self.office, self.release(which), stage, is_passed=is_passed)
        self.attempt("gate", work)

    @precondition(lambda self: self.made)
    @rule(
        which=some,
        stage=st.sampled_from(Stage),
        approver=people,
        lifetime=st.sampled_from(LIFETIMES),
    )
    def approve(self, which: int, stage: Stage, approver: str, lifetime: timedelta) -> None:
        """Some approvals expire before anybody can build on them."""
        release_id = self.release(which).release_id
        work = approve(self.office, release_id, stage, approver=approver, lifetime=lifetime)
        self.attempt("approve", work)

    @precondition(lambda self: self.made)
    @rule(which=some, author=people)
    def promote(self, which: int, author: str) -> None:
        release_id = self.release(which).release_id
        self.attempt("promote", promote(self.office, release_id, author=author, reason="test"))

    @rule(policy=few, pair=pairs)
    def go_all_the_way(self, policy: int, pair: list[str]) -> None:
        """What takes luck step by step."""
        author, approver, _ = pair

        async def work() -> None:
            parts = self.policies[policy]
            made = await releases.approved(self.office, parts, author=author, approver=approver)
            await promote(self.office, made.release_id, author=author, reason="test")

        self.attempt("all the way", work())
        self.made = self.run(ways.releases(self.db, self.name))

    @rule(policy=few, pair=pairs, moves=st.lists(st.sampled_from(MOVES), min_size=1, max_size=4))
    def go_to_the_canary(self, policy: int, pair: list[str], moves: list[str]) -> None:
        """What takes luck step by step, too; approved for promotion as well."""
        author, approver, _ = pair

        async def work() -> ways.Release:
            parts = self.policies[policy]
            made = await releases.approved(self.office, parts, author=author, approver=approver)
            await releases.gated(self.office, made, Stage.CANARY)
            await approve(self.office, made.release_id, Stage.CANARY, approver=approver)
            return await canary.start(self.office, made.release_id, actor=author, plan=PLAN)

        made = self.attempt("to the canary", work())
        self.made = self.run(ways.releases(self.db, self.name))
        for move in moves if made is not None else ():
            self.attempt(f"canary {move}", self.moved(made, author, move))

    @rule(policy=few, pair=pairs, end=st.sampled_from(("promote", "stop", "demote", "withdraw")))
    def go_to_all_tickets(self, policy: int, pair: list[str], end: str) -> None:
        """What takes luck step by step, too; and back from there, or on."""
        author, approver, _ = pair
        office = self.office

        async def work() -> ways.Release:
            made = await releases.approved(
                office, self.policies[policy], author=author, approver=approver
            )
            await releases.gated(office, made, Stage.CANARY)
            await approve(office, made.release_id, Stage.CANARY, approver=approver)
            await canary.start(office, made.release_id, actor=author, plan=PLAN)
            await releases.tell(office, made, Kind.CANARY_FINISHED, actor="system")
            return await canary.switch(office, made.release_id, actor=author)

        made = self.attempt("to all tickets", work())
        self.made = self.run(ways.releases(self.db, self.name))
        if made is None:
            return
        match end:
            case "promote":
                going = promote(office, made.release_id, author=author, reason="test")
                self.attempt("promote", going)
            case "demote":
                self.demote(Target.PREVIOUS, author)
            case "withdraw":
                self.withdraw(self.made.index(made), author)
            case _:
                self.attempt("canary stop", self.moved(made, author, "stop"))

    @precondition(lambda self: self.made)
    @rule(which=some, actor=people, move=st.sampled_from(MOVES))
    def move_canary(self, which: int, actor: str, move: str) -> None:
        self.attempt(f"canary {move}", self.moved(self.release(which), actor, move))

    async def moved(self, release: ways.Release, actor: str, move: str) -> None:
        office, release_id = self.office, release.release_id
        match move:
            case "start":
                await canary.start(office, release_id, actor=actor, plan=PLAN)
            case "step":
                await canary.step(office, release_id, actor=actor, plan=PLAN, percent=50)
            case "hold":
                await canary.hold(office, release_id, actor=actor, reason="test")
            case "stop":
                await canary.stop(office, release_id, actor=actor, reason="test")
            case "switch":
                await canary.switch(office, release_id, actor=actor)
            case "quarantine":
                told = {"cause": "failed", "message": "test"}
                await shadow.quarantine(office.lane, KEYRING, release, **told)
            case _:
                await releases.tell(office, release, Kind.CANARY_FINISHED, actor="system")

    @rule(policy=few, pair=pairs, news=st.sampled_from(NEWS))
    def hear_bad_news_and_promote(self, policy: int, pair: list[str], news: str) -> None:
        """What was approved before is not what is in shadow now."""
        author, approver, _ = pair
        parts, office = self.policies[policy], self.office

        async def work() -> ways.Release:
            made = await releases.approved(office, parts, author=author, approver=approver)
            if news == "failed":
                await releases.gated(office, made, is_passed=False)
                return made
            if news == Kind.CANARY_ROLLED_BACK:
                await releases.gated(office, made, Stage.CANARY)
                await approve(office, made.release_id, Stage.CANARY, approver=approver)
                await canary.start(office, made.release_id, actor=author, plan=PLAN)
                await canary.stop(office, made.release_id, actor=author, reason="test")
            else:
                await releases.tell(office, made, Kind(news))
            await releases.tell(office, made, Kind.SHADOW_STARTED)
            return made

        made = self.attempt(f"news {news}", work())
        self.made = self.run(ways.releases(self.db, self.name))
        if made is not None:
            work_in = promote(office, made.release_id, author=author, reason="test")
            assert self.attempt("promote", work_in) is None

    @rule(policy=few, pair=pairs)
    def roll_back(self, policy: int, pair: list[str]) -> None:
        author, approver, _ = pair

        async def work() -> None:
            await rollback(
                self.office,
                self.name,
                self.policies[policy].hash,
                seq=await self.seq(),
                author=author,
                approver=approver,
                reason="test",
            )

        self.attempt("roll back", work())

    @rule(to=st.sampled_from(Target), author=people)
    def demote(self, to: Target, author: str) -> None:
        self.demoted(to, author)

    def demoted(self, to: Target, author: str) -> records.ReleaseRecord | None:
        async def work() -> records.ReleaseRecord:
            return await demote(
                self.office, self.name, to, seq=await self.seq(), author=author, reason="test"
            )

        return self.attempt(f"demote to {to}", work())

    @rule(pair=pairs, signer=people, is_again=st.booleans())
    def demote_a_model_to_its_rules(self, pair: list[str], signer: str, is_again: bool) -> None:
        """What takes luck step by step, too; then one person tries to have the model back."""
        author, approver, _ = pair

        async def work() -> None:
            parts = self.modelled
            made = await releases.approved(self.office, parts, author=author, approver=approver)
            await promote(self.office, made.release_id, author=author, reason="test")

        self.attempt("a model", work())
        self.made = self.run(ways.releases(self.db, self.name))
        made = self.demoted(Target.RULES, author)
        if made is not None:
            signing = countersign(self.office, self.name, made.seq, signer=signer)
            self.attempt("countersign rules", signing)
        if is_again:
            self.demote(Target.PREVIOUS, author)

    @rule(seq=st.integers(1, 6), signer=people)
    def countersign(self, seq: int, signer: str) -> None:
        self.attempt("countersign", countersign(self.office, self.name, seq, signer=signer))

    @precondition(lambda self: self.made)
    @rule(which=some, actor=people)
    def withdraw(self, which: int, actor: str) -> None:
        release_id = self.release(which).release_id
        self.attempt("withdraw", ways.withdraw(self.office, release_id, actor=actor, reason="t"))

    @precondition(lambda self: self.made)
    @rule(which=some, author=people)
    def rebase(self, which: int, author: str) -> None:
        release = self.release(which)

        async def work() -> ways.Release:
            parts = await self.office.library.parts(release.policy_hash)
            backtest = await releases.backtest_of(self.office, parts)
            return await ways.rebase(
                self.office, release.release_id, backtest, author=author, reason="test"
            )

        made = self.attempt("rebase", work())
        if made is not None:
            self.made.append(made)

    @invariant()
    def production_is_one_and_told_of(self) -> None:
        if hasattr(self, "runner"):
            self.run(self._look())

    async def _look(self) -> None:
        pool = self.db.pool
        rows = await pool.fetch(
            "SELECT r.*, p.workflow_version, p.rules_version FROM release_records r "
            "JOIN policies p USING (policy_hash) WHERE r.workflow = $1 ORDER BY seq",
            self.name,
        )
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        assert not isinstance(
            (await records.current(self.db, KEYRING))[self.name], records.ForgedRelease
        )
        states = {r.release_id: r.state for r in await ways.releases(self.db, self.name)}
        in_production = {i for i, state in states.items() if state is State.PRODUCTION}
        assert in_production == {rows[-1]["release_id"]} - {None}
        out: set[str] = set()  # by a demotion, and not put back by two persons
        for place, row in enumerate(rows):
            await self._check(row, rows[:place], out)
            if row["kind"] == "demote":
                out.add(rows[place - 1]["policy_hash"])
            else:
                out.discard(row["policy_hash"])
        happened = await pool.fetch(_HAPPENED, self.name)
        for release_id in states:
            events = [event for event in happened if event["release_id"] == release_id]
            self._check_approvals(events, {row["seq"]: row for row in rows})
        await self._check_journal(happened, len(rows))

    def _check_approvals(self, events: list[Any], production: dict[int, Any]) -> None:
        """What was let decide was approved, on the newest gates, and nothing bad came since."""
        evidence: dict[str, str | None] = {}
        approvers: dict[str, set[str]] = {stage: set() for stage in Stage}
        for event in events:
            kind, actor, detail = Kind(event["kind"]), event["actor"], orjson.loads(event["detail"])
            HAPPENED[kind] += 1
            stage = detail.get("stage", "")
            match kind:
                case Kind.GATED:
                    is_passed = detail["is_passed"]
                    evidence[stage] = detail["evaluation"] if is_passed else None
                    approvers[stage] = set()
                case Kind.APPROVED:
                    assert detail["evaluation"] == evidence[stage] is not None
                    approvers[stage].add(actor)
                case Kind.QUARANTINED | Kind.SHADOW_STOPPED | Kind.CANARY_ROLLED_BACK:
                    evidence = {}
                    approvers = {stage: set() for stage in Stage}
                case Kind.CANARY_STARTED | Kind.CANARY_STEP:
                    assert approvers[Stage.CANARY] - {actor}
                case Kind.CANARY_SWITCHED:
                    assert detail["percent"] == 100
                    assert approvers[Stage.PROMOTION] - {actor}
                case Kind.PROMOTED:
                    row = production[detail["seq"]]
                    if row["kind"] == "promote":
                        assert row["approver"] in approvers[Stage.PROMOTION]
                case _:
                    pass

    async def _check(self, row: Any, earlier: list[Any], out: set[str]) -> None:
        """How this policy could come into production."""
        before = {each["policy_hash"] for each in earlier}
        match row["kind"]:
            case "install":
                assert not before
                assert row["author"] != row["approver"]
            case "promote":
                told = (row["release_id"], row["approver"], row["created_at"])
                assert await self.db.pool.fetchval(_APPROVED, *told)
                assert row["author"] != row["approver"]
            case "rollback":
                assert row["policy_hash"] in before
                assert row["author"] != row["approver"]
                told = (self.name, row["seq"] - 1, row["policy_hash"], row["approver"])
                assert await self.db.pool.fetchval(_ROLLBACK_APPROVED, *told)
            case "demote":
                was_there = row["policy_hash"] in before - out
                rules = ("workflow_version", "rules_version")
                are_same = all(row[name] == earlier[-1][name] for name in rules)
                assert was_there or (row["bundle_digest"] is None and are_same)
            case other:
                raise AssertionError(other)

    async def _check_journal(self, happened: list[Any], count: int) -> None:
        """Every event and every record has its entry."""
        entries = await self.db.pool.fetch(
            "SELECT action, detail FROM system_audit WHERE subject LIKE $1", f"{self.name}/%"
        )
        told = Counter[tuple[str, str]]()
        seqs: set[int] = set()
        for entry in entries:
            detail = orjson.loads(entry["detail"])
            if "release" in detail:
                told[detail["release"], entry["action"]] += 1
            elif entry["action"] not in ("production.countersigned", finished.ACTION):
                seqs.add(detail["seq"])
        assert told == Counter((str(e["release_id"]), f"release.{e['kind']}") for e in happened)
        assert seqs == set(range(1, count + 1))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.db.close())
            self.runner.close()


_APPROVED = """
    SELECT EXISTS (
        SELECT FROM release_approvals a
        JOIN gate_evaluations e ON e.evaluation_id = a.evaluation_id
        JOIN releases r ON r.release_id = a.release_id
        WHERE a.release_id = $1 AND a.approver = $2 AND a.stage = 'promotion' AND e.is_passed
          AND e.stage = 'promotion' AND e.policy_hash = r.policy_hash AND r.author <> a.approver
          AND a.expires_at > $3
          AND a.approver <> (SELECT author FROM policies p WHERE p.policy_hash = r.policy_hash))
"""
_ROLLBACK_APPROVED = """
    SELECT EXISTS (
        SELECT FROM rollback_approvals a JOIN policies p ON p.policy_hash = a.policy_hash
        WHERE a.workflow = $1 AND a.production_seq = $2 AND a.policy_hash = $3
          AND a.approver = $4 AND p.author <> $4)
"""
_HAPPENED = """
    SELECT e.release_id, e.kind, e.actor, e.detail FROM release_events e
    JOIN releases r ON r.release_id = e.release_id WHERE r.workflow = $1
    ORDER BY e.release_id, e.seq
"""


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("chosen", [1, None])
def test_production_is_one_and_nobodys_alone(
    module_database_urls: DatabaseUrls, tmp_path: Path, chosen: int | None
) -> None:
    """By a seed that reaches everything again, and by another one each time."""
    number = random.SystemRandom().getrandbits(32) if chosen is None else chosen
    sys.stderr.write(f"seed {number}\n")  # told when it fails
    REACHED.clear()
    HAPPENED.clear()
    Ways.url, Ways.artifacts = module_database_urls.app, tmp_path
    run_state_machine_as_test(
        seed(number)(Ways),
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            phases=(Phase.generate,),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    if chosen is None:  # what it reaches is luck
        return
    ways_in = {"propose", "all the way", "to the canary", "to all tickets"}
    ways_in |= {f"news {news}" for news in NEWS}
    ways_back = {f"demote to {to}" for to in Target}
    ways_back |= {"a model", "countersign rules"}
    assert ways_in | ways_back <= REACHED.keys(), REACHED
    assert set(Kind) == HAPPENED.keys(), HAPPENED
