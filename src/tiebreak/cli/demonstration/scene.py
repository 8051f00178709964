"""What the demo sets up, each part only where it is not there yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import func, select

from tiebreak.access.keys import create_key
from tiebreak.access.persons import ensure_person
from tiebreak.access.roles import Role
from tiebreak.cli.demonstration.tickets import Plan
from tiebreak.cli.session import Session
from tiebreak.core.workflow import RuleSet, Workflow
from tiebreak.ingest.importer import Files, import_history
from tiebreak.ingest.simulator import Simulation
from tiebreak.registry import records
from tiebreak.registry.proposals import propose
from tiebreak.store import tables
from tiebreak.training.fit import Parameters
from tiebreak.training.requests import Request
from tiebreak.workflows import versions

AUTHOR, APPROVER = "demo-author", "demo-approver"
KEY_LIFE = timedelta(hours=1)
REASON = "demonstration"

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Scene:
    """The demo's place: a session of its author, and a workflow with its rules."""

    session: Session
    workflow: Workflow
    rules: RuleSet

    async def people_and_workflow(self) -> versions.Version:
        """Register author and approver, and load the workflow."""
        async with self.session.lane.unit() as unit:
            for person in (AUTHOR, APPROVER):
                await ensure_person(unit, person, actor=AUTHOR)
        lane = self.session.lane
        loaded = await versions.load(lane, self.workflow, self.rules, author=AUTHOR, reason=REASON)
        return loaded.version

    async def count_imported(self) -> int:
        """How many imported tickets are there."""
        keys = tables.ticket_keys
        query = (
            select(func.count())
            .select_from(keys)
            .where(keys.c.workflow == self.workflow.name, keys.c.origin == "import")
        )
        async with self.session.db.read() as conn:
            return (await conn.execute(query)).scalar_one()

    async def history(self, plan: Plan, simulation: Simulation, progress: Progress) -> int:
        """Import the simulated past; how many tickets of it there are."""
        past = simulation.known_by(plan.end_of_history)
        count = await self.count_imported()
        if count >= past.tickets.height:
            return count
        tickets, events = past.write(self.session.settings.data_dir / "demo")
        await import_history(
            self.session.db,
            self.session.keyring,
            self.workflow,
            Files([tickets], [events]),
            actor=AUTHOR,
            progress=progress,
        )
        return await self.count_imported()

    async def production(self, parameters: Parameters | None, progress: Progress) -> dict[str, Any]:
        """Train and install a model unless something is in production; the model's figures.

        Raises `ForgedRelease`.
        """
        now = await self._in_production()
        if now is not None:
            return {} if now.bundle_digest is None else await self._metrics(now.bundle_digest)
        session = self.session
        now_utc = datetime.now(UTC)
        request = Request(
            workflow=self.workflow.name,
            workflow_version=self.workflow.version,
            known_by=now_utc,
            valid_from=None,
            family=None,
            parameters=parameters or Parameters(valid_from=now_utc),
            author=AUTHOR,
            reason=REASON,
        )
        run = await session.trainer.run(request, progress)
        proposal = await propose(
            session.db,
            session.library(),
            session.keyring,
            self.workflow.name,
            ordinal=None,
            digest=run.digest,
        )
        await records.install(
            session.lane,
            session.keyring,
            proposal.parts,
            author=AUTHOR,
            approver=APPROVER,
            reason=REASON,
        )
        session.artifacts.set_alias(self.workflow.name, "risk_model_latest", run.digest)
        return run.manifest["metrics"]

    async def is_behind(self) -> bool:
        """Whether production decides by another version than that of the workflow's folder."""
        now = await self._in_production()
        assert now is not None
        parts = await self.session.library().parts(now.policy_hash)
        versions = (parts.workflow_version, parts.rules_version)
        return versions != (self.workflow.version, self.rules.version)

    async def _in_production(self) -> records.ReleaseRecord | None:
        session = self.session
        now = (await records.current(session.db, session.keyring)).get(self.workflow.name)
        if isinstance(now, records.ForgedRelease):
            raise now
        return now

    async def key(self) -> str:
        """A key of the author that expires soon."""
        token = await create_key(
            self.session.lane,
            person=AUTHOR,
            roles=frozenset({Role.SERVICE, Role.AUDITOR}),
            actor=AUTHOR,
            expires_at=datetime.now(UTC) + KEY_LIFE,
        )
        return str(token)

    async def _metrics(self, digest: str) -> dict[str, Any]:
        runs = tables.ml_training_runs
        query = select(runs.c.metrics).where(runs.c.bundle_digest == digest).limit(1)
        async with self.session.db.read() as conn:
            metrics = (await conn.execute(query)).scalar_one_or_none()
        return {} if metrics is None else orjson.loads(metrics)
