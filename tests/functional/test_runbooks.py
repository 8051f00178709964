"""The runbooks, command by command, on a running stack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson
import pytest
from tests import releases as ways
from tests.databases import servers_place
from tests.functional.places import run_here

from tiebreak.cli import exits
from tiebreak.cli.session import Session, opened
from tiebreak.embedded.stack import stack
from tiebreak.ingest.simulator import simulate
from tiebreak.registry import records
from tiebreak.registry.proposals import propose
from tiebreak.release import releases
from tiebreak.release.states import Kind
from tiebreak.settings import Settings
from tiebreak.training.fit import Parameters
from tiebreak.training.requests import Request
from tiebreak.workflows.check import check_folder

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAYS, TICKETS = 400, 2_500


@dataclass
class Machine:
    """A machine on which runbooks are followed."""

    folder: Path  # where its operator stands
    data_dir: Path
    names: dict[str, str] = field(default_factory=dict[str, str])  # what stands for what

    @property
    def environment(self) -> dict[str, str]:
        foreign = ("TIEBREAK_", "DATABASE_", "REDIS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        programs = Path(sys.executable).parent
        return kept | {
            "PATH": f"{programs}:{kept['PATH']}",
            "TIEBREAK_DATA_DIR": str(self.data_dir),
            "TIEBREAK_API__PORT": "0",
            "TIEBREAK_API__WORKERS": "1",
            "TIEBREAK_KEY": self.names.get("TIEBREAK_KEY", ""),
        }

    def shell(self, line: str) -> str:
        """Run a line as an operator does; what it says on standard output.

        A plain command of ours runs in this process, which saves its imports.
        """
        words = shlex.split(line)
        if words[0] == "tiebreak" and words[1] not in ("up", "down"):
            with contextlib.chdir(self.folder):
                code, out, err = run_here(self.environment, words[1:])
            assert code == exits.OK, f"{line}\n{out}{err}"
            return out
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def tiebreak(self, line: str) -> Any:
        """Run a command with --json; what it says."""
        return orjson.loads(self.shell(f"tiebreak {line} --json"))

    def follow(self, runbook: str, *numbers: int) -> None:
        """Run the blocks of a runbook with these numbers, all of them without numbers."""
        blocks = BLOCK.findall((RUNBOOKS / runbook).read_text())
        for number in numbers or range(len(blocks)):
            for line in blocks[number].replace("\\\n", " ").splitlines():
                self.shell(self._filled(line).replace("http://127.0.0.1:8000", self.url))

    def _filled(self, line: str) -> str:
        """The line with what its names stand for; `ID` is the newest release."""
        for name in re.findall(r"(?<![A-Z_$])(?:ID|KEY|POLICY)(?![A-Z_])", line):
            value = self.names.get(name) or self._newest()
            line = re.sub(rf"(?<![A-Z_$]){name}(?![A-Z_])", value, line)
        return line

    def _newest(self) -> str:
        return self.tiebreak("release list")["releases"][0]["release_id"][:8]

    @property
    def url(self) -> str:
        return str(self.tiebreak("status")["url"])

    def ready(self, status: str) -> None:
        """Wait until the API says so."""
        end = time.monotonic() + 60
        while (told := httpx.get(f"{self.url}/readyz").json())["status"] != status:
            assert time.monotonic() < end, told
            time.sleep(0.2)

    def production(self) -> dict[str, Any]:
        return self.tiebreak("release status")["production"][0]

    def within(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Run `work` in a session of `ann` on the machine's servers."""
        with stack(Settings(data_dir=self.data_dir)) as services:

            async def acting() -> T:
                async with opened(services, "ann") as session:
                    return await work(session)

            return asyncio.run(acting())

    def down(self) -> None:
        self.shell("tiebreak down --remove-data --yes")
        shutil.rmtree(self.folder, ignore_errors=True)


def machine(name: str) -> Machine:
    folder = servers_place() / f"tiebreak {name} {os.getpid()}"
    folder.mkdir(mode=0o755)
    return Machine(folder, folder / "data")


@pytest.fixture
def first() -> Generator[Machine]:
    """`locate` with a model in production, trained on a little history, and its API."""
    made = machine("runbooks")
    try:
        key = made.tiebreak("keys create --person ann --role lead")
        made.names |= {"TIEBREAK_KEY": key["key"], "KEY": key["key_id"]}
        made.shell("tiebreak keys create --person bob --role approver")
        made.shell(f"tiebreak workflow load '{ROOT}/workflows/locate' --reason first --as ann")
        past = simulate(3, TICKETS, END - timedelta(days=DAYS), DAYS).known_by(END)
        tickets, events = past.write(made.folder)
        made.shell(f"tiebreak import locate '{tickets}' --outcomes '{events}' --as ann")
        made.within(trained)
        made.shell("tiebreak up --detach")
        made.ready("ready")
        yield made
    finally:
        made.down()


@pytest.fixture
def second() -> Generator[Machine]:
    made = machine("restored")
    yield made
    made.down()


async def trained(session: Session) -> None:
    """Train a small model and install it."""
    workflow, _ = check_folder(ROOT / "workflows" / "locate").sound()
    keys = session.keyring
    now = datetime.now(UTC)
    request = Request(
        workflow=workflow.name,
        workflow_version=workflow.version,
        known_by=now,
        valid_from=None,
        family=None,
        parameters=Parameters(valid_from=now, rounds=10, max_depth=3),
        author="ann",
        reason="test",
    )
    made = await session.trainer.run(request, lambda _step, _share: None)
    proposal = await propose(
        session.db, session.library(), keys, "locate", ordinal=None, digest=made.digest
    )
    await records.install(
        session.lane, keys, proposal.parts, author="ann", approver="bob", reason="first"
    )


async def tried(session: Session) -> None:
    """Let the newest release go through shadow and its gates."""
    office = session.office()
    release = (await releases.releases(session.db))[0]
    await ways.tell(office, release, Kind.SHADOW_STARTED)
    await ways.gated(office, release)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_runbooks_do_what_they_say(first: Machine, second: Machine) -> None:
    installed = first.production()
    first.follow("promotion.md", 0)
    first.within(tried)
    first.follow("promotion.md", 1, 2)
    promoted = first.production()
    assert (promoted["kind"], promoted["approver"]) == ("promote", "bob")

    first.names["POLICY"] = installed["policy"][:8]
    first.follow("rollback.md")
    assert first.production()["policy"] == installed["policy"]

    first.names["POLICY"] = promoted["policy"][:8]
    first.follow("rollback.md", 1)
    first.follow("emergency-demote.md", 0)
    assert first.production()["policy"] == installed["policy"]
    first.follow("emergency-demote.md", 4)
    first.follow("emergency-demote.md", 1, 3, 4)
    assert first.production()["model"] is None
    assert first.tiebreak("release status")["demotions"] == []
    first.follow("rollback.md", 1)
    first.follow("emergency-demote.md", 2, 4)
    assert first.production()["policy"] == installed["policy"]

    first.follow("restore-on-a-new-machine.md", 0)
    backup = first.folder / "tiebreak.tar"
    assert backup.stat().st_mode & 0o077 == 0
    bundle = first.data_dir / "artifacts" / "bundles" / f"{installed['model']}.bundle"
    bundle.write_bytes(bundle.read_bytes()[:-1])
    first.shell("tiebreak down")
    first.shell("tiebreak up --detach")
    first.ready("degraded")
    first.follow("bad-artifact.md", 0, 1)
    first.ready("ready")
    first.follow("bad-artifact.md", 2)

    first.follow("key-rotation-and-compromise.md")
    assert first.production()["model"] is None
    first.ready("ready")

    shutil.copy(backup, second.folder)
    second.follow("restore-on-a-new-machine.md", 1)
    second.ready("ready")
    second.follow("restore-on-a-new-machine.md", 2)
    assert second.production()["policy"] == installed["policy"]
    again = subprocess.run(
        ["tiebreak", "restore", str(backup), "--json"],
        env=second.environment,
        capture_output=True,
        check=False,
    )
    assert orjson.loads(again.stdout)["error"]["code"] in ("folder_in_use", "already_running")
