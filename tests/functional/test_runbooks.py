"""The runbooks, command by command, on a running stack."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from tests.databases import run, servers_place
from tests.functional.places import run_here

from tiebreak.cli import exits
from tiebreak.cli.demonstration.tickets import Live
from tiebreak.embedded.postgres import PostgresServer
from tiebreak.ingest.simulator import Simulation, simulate

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAYS, COMING, TICKETS = 400, 100, 3_000
LEAST = 50
# Nobody waits for weeks here, so gates that weeks of tickets and their ends answer are left out.
RELEASE = f"""
release:
  canary: required
  canary_steps: [{{percent: 25, hours: 0, tickets: 1}}, {{percent: 50, hours: 0, tickets: 5}}]
  gates:
    volume: {{tickets: {LEAST}, days: 0}}
    backtest: {{flips: 1, missed: 10, needless: 10, hours: 10, cost: 10}}
    labels: null
    pr_auc: null
    auc: null
    recall: null
    calibration: null
    slices: null
    leakage: null
    shift: null
    flips: null
    latency: null
"""


@dataclass
class Machine:
    """A machine on which runbooks are followed."""

    folder: Path  # where its operator stands
    data_dir: Path
    names: dict[str, str] = field(default_factory=dict[str, str])  # what stands for what
    tickets: Iterator[bytes] = field(default_factory=lambda: iter(()))  # that will come in

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
        is_plain = not re.search(r"[|>$]", line)
        if is_plain and words[0] == "tiebreak" and words[1] not in ("up", "down"):
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
        """The line with what its names stand for; `ID` and `DIGEST` are the newest."""
        for name in re.findall(r"(?<![A-Z_$])(?:ID|KEY|POLICY|DIGEST)(?![A-Z_])", line):
            value = self.names.get(name) or self.newest(name)
            line = re.sub(rf"(?<![A-Z_$]){name}(?![A-Z_])", value, line)
        return line

    def newest(self, name: str) -> str:
        """The newest release or model."""
        if name == "DIGEST":
            return self.tiebreak("model list")["models"][0]["digest"][:12]
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

    def until(self, line: str, is_so: Callable[[Any], bool]) -> None:
        """Wait until what a command says is so."""
        end = time.monotonic() + 120
        while not is_so(told := self.tiebreak(line)):
            assert time.monotonic() < end, told
            time.sleep(0.5)

    def send(self, count: int) -> None:
        """Submit the next tickets."""
        key, sent = self.names["SENDER"], [next(self.tickets) for _ in range(count)]
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-ndjson"}
        address = f"{self.url}/v1/workflows/locate/decisions:batch"
        answers = httpx.post(address, content=b"\n".join(sent), headers=headers, timeout=60)
        assert [orjson.loads(line)["status"] for line in answers.text.splitlines()] == [200] * count

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
        sender = made.tiebreak("keys create --person ann --role service")
        made.names["SENDER"] = sender["key"]
        # one of her own that stays when the other is revoked
        made.shell("tiebreak keys create --person ann --role ml_engineer")
        made.shell("tiebreak keys create --person bob --role approver")
        shutil.copytree(ROOT / "workflows" / "locate", made.folder / "locate")
        with (made.folder / "locate" / "workflow.yaml").open("a") as file:
            file.write(RELEASE)
        made.shell("tiebreak workflow load locate --reason first --as ann")
        simulation = simulate(3, TICKETS, END - timedelta(days=DAYS), DAYS + COMING)
        tickets, events = simulation.known_by(END).write(made.folder)
        made.shell(f"tiebreak import locate '{tickets}' --outcomes '{events}' --as ann")
        made.shell("tiebreak train locate --trees 10 --depth 3 --reason first --as ann")
        made.shell(
            "tiebreak release install locate --without-gates --approved-by bob --as ann"
            " --reason first"
        )
        made.tickets = coming(simulation)
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


def coming(simulation: Simulation) -> Iterator[bytes]:
    """The tickets after those of history, as they are submitted."""
    live = simulation.opened_from(END)
    fields = [name for name in live.tickets.columns if name != "ticket_id"]
    return iter(Live(live.tickets, live.events, "").bodies(datetime.now(UTC), fields))


FORGED = """
    INSERT INTO release_records
    SELECT (jsonb_populate_record(r, jsonb_build_object(
        'seq', production_seq(workflow) + 1, 'mac', '\\x00', 'policy_hash', $1::text,
        'bundle_digest', NULL, 'kind', 'demote', 'approver', NULL, 'release_id', NULL))).*
    FROM release_records r WHERE workflow = 'locate' ORDER BY seq DESC LIMIT 1
"""


def forge(machine: Machine) -> None:
    """Write a release record past the code, as one with the database's passwords could."""
    folder = machine.data_dir
    lines = (folder / "services" / "postgres" / "postmaster.pid").read_text().splitlines()
    password = (folder / "secrets" / "superuser.password").read_text().strip()
    server = PostgresServer(int(lines[0]), int(lines[3]), None, password, adopted=True)

    async def work() -> None:
        database = await asyncpg.connect(server.url("tiebreak"))
        await database.execute("SET session_replication_role = replica")
        await database.execute(FORGED, machine.names["POLICY"])
        await database.close()

    run(work())
    machine.ready("degraded")


@pytest.mark.full
@pytest.mark.timeout(1_500)
def test_what_was_forged_or_lost_is_mended(first: Machine) -> None:
    installed = first.production()
    first.names["POLICY"] = installed["policy"]
    page = "bad-artifact.md"
    forge(first)
    first.follow(page, 3, 4)
    assert first.production()["policy"] == installed["policy"]
    forge(first)
    first.follow(page, 5)
    assert (first.production()["policy"], first.production()["kind"]) == (
        *(installed["policy"], "rollback"),
    )
    forge(first)
    first.follow(page, 6)
    assert first.production()["model"] is None
    first.ready("ready")
    first.follow("rollback.md", 1)
    first.follow(page, 7, 8, 9)
    assert first.tiebreak("release list")["releases"][0]["state"] == "draft"


@pytest.mark.full
@pytest.mark.timeout(1_500)
def test_keys_that_got_out_are_replaced(first: Machine) -> None:
    secrets = first.data_dir / "secrets"
    page = "key-rotation-and-compromise.md"
    first.follow(page, *range(7))
    assert first.production()["model"] is None
    first.ready("ready")
    (trained, old) = first.tiebreak("model list")["models"]
    assert trained["key_id"] == "k2"
    assert "revoked" in old["problem"]

    # where models are trained: `ed-1` signs, and what it signed is trusted
    first.shell("tiebreak model keygen ed-1")
    (secrets / "bundle.current").write_text("ed-1")
    first.shell("tiebreak model renew " + trained["digest"])
    (secrets / "bundle.k2.key").unlink()
    first.follow(page, 7)
    (renewed,) = [m for m in first.tiebreak("model list")["models"] if m["problem"] is None]
    assert (renewed["digest"], renewed["key_id"]) == (trained["digest"], "ed-2")
    first.follow(page, 8)
    assert (secrets / "bundle.revoked").read_text().split() == ["k1", "ed-1", "kms-1"]
    first.follow(page, 9, 10)
    first.ready("ready")
    assert (secrets / "seal.current").read_text() == "k3"


@pytest.mark.full
@pytest.mark.timeout(1_500)
def test_the_runbooks_do_what_they_say(first: Machine, second: Machine) -> None:
    installed = first.production()
    first.follow("promotion.md", 0, 1)
    first.send(LEAST)
    shadow = f"release shadow status {first.newest('ID')}"
    first.until(shadow, lambda told: told["shadows"][0]["scored"] >= LEAST)
    first.follow("promotion.md", 2, 3)
    first.send(LEAST)
    canary = f"release canary status {first.newest('ID')}"
    first.until(canary, lambda told: told["state"] == "ready")
    first.until(shadow, lambda told: told["shadows"][0]["lag_seconds"] == 0)
    first.follow("promotion.md", 4, 5)
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
