"""Show the whole product at work on simulated tickets."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from tiebreak.audit import checkpoints
from tiebreak.audit.verify import verify
from tiebreak.cli.demonstration.figures import Decision, figures, most_telling
from tiebreak.cli.demonstration.scene import AUTHOR, Scene
from tiebreak.cli.demonstration.stream import Stream, send
from tiebreak.cli.demonstration.summary import Told, summary
from tiebreak.cli.demonstration.tickets import Live, Plan, now_utc
from tiebreak.cli.output import JsonOption, Output
from tiebreak.cli.session import opened
from tiebreak.core.workflow import Workflow
from tiebreak.decisions.replay import Cause, replay
from tiebreak.embedded.supervisor import Supervisor, running
from tiebreak.errors import NotFound, Unavailable
from tiebreak.settings import Settings
from tiebreak.store import reading
from tiebreak.workflows.check import check_folder

NAME = "locate"
LIVE_TICKETS = 2_000
REPLAYED = 500
READY_SECONDS = 120.0
READY_IN_A_ROW = 20


class WorkflowsMissing(NotFound):
    """The folder of workflows is not here."""

    code = "workflows_missing"


class NotDeciding(Unavailable):
    """The API does not decide by the new policy."""

    code = "not_deciding"


def command(
    exit_: Annotated[
        bool, typer.Option("--exit", help="Stop at the end instead of serving until Ctrl-C.")
    ] = False,
    tickets: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many live tickets to decide.")
    ] = LIVE_TICKETS,
    workflows: Annotated[
        Path, typer.Option(help="The folder that holds the `locate` workflow.")
    ] = Path("workflows"),
    json: JsonOption = False,
) -> None:
    """Start everything, learn from two simulated years, decide live tickets, and keep serving.

    Example: `tiebreak demo --exit`
    """
    if not (workflows / NAME).is_dir():
        raise WorkflowsMissing(hint="Run this in the repository's folder, or give --workflows.")
    demo = _Demo(Settings.load(), workflows / NAME, tickets, Output(as_json=json))
    stopped = threading.Event()
    with running(demo.settings, demo.output.note) as supervisor:
        told = asyncio.run(demo.run(supervisor))
        demo.output.result(told.as_dict(), summary(told))
        if not exit_:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda _number, _frame: stopped.set())
            demo.output.note(f"Serving on {supervisor.url} until Ctrl-C.")
            stopped.wait()


@dataclass
class _Demo:
    """One run, and how long each of its steps took."""

    settings: Settings
    folder: Path
    tickets: int
    output: Output
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def step(self, name: str) -> Generator[Callable[[str, float], None]]:
        begun = time.monotonic()
        with self.output.progress(name) as progress:
            yield lambda stage, share: progress(f"{name}: {stage}" if stage else name, share)
        self.seconds[name] = round(time.monotonic() - begun, 2)
        self.output.note(f"✓ {name} ({self.seconds[name]:.1f} s)")

    async def run(self, supervisor: Supervisor) -> Told:
        workflow, rules = check_folder(self.folder).sound()
        async with opened(supervisor.services, AUTHOR) as session:
            scene = Scene(session, workflow, rules)
            with self.step("People and workflow"):
                await scene.people_and_workflow()
            with self.step("Simulating two years and more"):
                plan = Plan.of(session.settings.data_dir, now_utc())
                simulation = await asyncio.to_thread(plan.simulation)
            with self.step("History") as progress:
                imported = await scene.history(plan, simulation, progress)
            with self.step("Model") as progress:
                metrics = await scene.production(None, progress)
            if await scene.is_behind():
                self.output.note(
                    "The workflow's files changed since; production decides by what was installed. "
                    f"Next: `tiebreak release propose {NAME} --workflow {self.folder} --reason WHY`"
                )
            live, after = plan.next_live(simulation, self.tickets)
            headers = {"Authorization": f"Bearer {await scene.key()}"}
            async with httpx.AsyncClient(
                base_url=supervisor.url, headers=headers, timeout=60
            ) as client:
                with self.step("API"):
                    await asyncio.to_thread(supervisor.wait_ready)
                    await _wait_deciding(client)
                stream = await self._stream(client, workflow, live)
                after.keep(session.settings.data_dir)
                decision = most_telling(stream.decisions)
                explanation = await _explanation(client, decision)
            with self.step("Replay"):
                pairs = reading.pairs(session.db, NAME, sample=REPLAYED)
                replayed = await replay(pairs, session.library())
            with self.step("Verifying the audit trail") as progress:
                await checkpoints.write(session.db, session.artifacts, session.keyring)
                verified = await verify(
                    session.db,
                    session.artifacts,
                    session.keyring,
                    lambda done, total: progress("", done / max(total, 1)),
                )
            return Told(
                url=supervisor.url,
                imported=imported,
                metrics=metrics,
                figures=figures(stream.decisions, live.ends()),
                decision=decision,
                explanation=explanation,
                latency_ms={"p50": stream.latency_ms(0.50), "p95": stream.latency_ms(0.95)},
                decisions_per_second=stream.per_second,
                replayed=replayed.total,
                identical=replayed.counts[Cause.IDENTICAL],
                verified=verified.verified,
                is_intact=verified.is_intact,
                seconds=self.seconds,
            )

    async def _stream(self, client: httpx.AsyncClient, workflow: Workflow, live: Live) -> Stream:
        fields = [f.name for f in workflow.fields if not f.after]
        bodies = live.bodies(now_utc(), fields)
        with self.step("Live tickets") as progress:
            return await send(client, NAME, bodies, lambda share: progress("", share))


async def _wait_deciding(client: httpx.AsyncClient) -> None:
    """Wait until every worker decides by what was installed; each follows by itself."""
    in_a_row, deadline = 0, time.monotonic() + READY_SECONDS
    while in_a_row < READY_IN_A_ROW:
        # a connection of its own each time, so that another worker may answer
        response = await client.get("/readyz", headers={"Connection": "close"})
        status = response.json()["status"]
        in_a_row = in_a_row + 1 if status == "ready" else 0
        if time.monotonic() > deadline:
            raise NotDeciding(f"The API is {status}.", hint="Look into the data folder's logs.")
        await asyncio.sleep(0.05 if in_a_row else 0.25)


async def _explanation(client: httpx.AsyncClient, decision: Decision) -> dict[str, Any]:
    """The decision's whole explanation; empty when no model scored it."""
    if decision["model"]["status"] != "scored":
        return {}
    response = await client.get(f"/v1/decisions/{decision['decision_id']}/explanation")
    response.raise_for_status()
    return response.json()
