"""A machine with a Tiebreak of its own: embedded servers, simulated history, a model, its API."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
from tests.databases import servers_place
from tests.functional.places import ROOT, run_here

from tiebreak.cli import exits
from tiebreak.cli.demonstration.tickets import Live
from tiebreak.ingest.simulator import Simulation, simulate

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAYS, COMING, TICKETS = 400, 100, 3_000


def shell_blocks(document: Path) -> list[str]:
    """The blocks of shell commands in a document."""
    return BLOCK.findall(document.read_text())


@dataclass
class Machine:
    """A folder, and the environment in which commands run there and start their own servers."""

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
            "API_KEY": self.names.get("API_KEY", ""),
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

    def follow(self, document: Path, *numbers: int) -> None:
        """Run the blocks of a document with these numbers, all of them without numbers."""
        blocks = shell_blocks(document)
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

    def edit_workflow(self, file: str, change: Callable[[str], str]) -> None:
        """Change a file of the machine's own `locate`, before it is loaded."""
        folder = self.folder / "locate"
        if not folder.exists():
            shutil.copytree(ROOT / "workflows" / "locate", folder)
        (folder / file).write_text(change((folder / file).read_text()))

    def learn(self, alter: Callable[[Simulation], Simulation] = lambda known: known) -> None:
        """Put its `locate` with a model into production, trained on a little history.

        `alter` changes history before it is imported.
        """
        self.shell("tiebreak workflow load locate --reason first --as ann")
        simulation = simulate(3, TICKETS, END - timedelta(days=DAYS), DAYS + COMING)
        tickets, events = alter(simulation.known_by(END)).write(self.folder)
        self.shell(f"tiebreak import locate '{tickets}' --outcomes '{events}' --as ann")
        self.shell("tiebreak train locate --trees 10 --depth 3 --reason first --as ann")
        self.shell(
            "tiebreak release install locate --without-gates --approved-by bob --as ann"
            " --reason first"
        )
        self.tickets = _coming(simulation)

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


def _coming(simulation: Simulation) -> Iterator[bytes]:
    """The tickets after those of history, as they are submitted."""
    live = simulation.opened_from(END)
    fields = [name for name in live.tickets.columns if name != "ticket_id"]
    return iter(Live(live.tickets, live.events, "").bodies(datetime.now(UTC), fields))
