"""A past year streamed through the product, with candidates in shadow beside production."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tests.functional.places import ROOT, Place

from tiebreak.cli import exits
from tiebreak.release.evaluating import GatesBlock

WAIT_SECONDS = 240
BLOCKED = exits.exit_code(GatesBlock())
BY = ("--as", "ann")
BY_ANN = (*BY, "--reason", "test")


def part_of(file: Path, column: str, parts: int) -> pl.DataFrame:
    """The rows of one in so many values of a column, the same ones always.

    All rows of a value stay together, so that what is known about it stays whole.
    """
    whole = pl.read_parquet(file)
    kept = [zlib.crc32(str(value).encode()) % parts == 0 for value in whole[column]]
    return whole.filter(pl.Series(kept, dtype=pl.Boolean))


@dataclass(frozen=True)
class Story:
    """A workflow at a place, and the file from which its stream comes."""

    place: Place
    workflow: str
    stream: Path

    def until(self, moment: str, *, since: str) -> int:
        """Let come in what was known by a moment, and decide what came in; how many."""
        taken = self.place.json(
            *("import", self.workflow, self.stream, "--known-by", moment, "--as-arrived"),
            *BY,
        )
        assert taken["rejected"] == 0
        decided = self.place.json("tickets", "decide", self.workflow, "--since", since, *BY)
        assert decided["decided"] == taken["tickets"]
        return int(taken["tickets"])

    def trained(self, *options: object) -> dict[str, Any]:
        """A model of what is stored."""
        told: dict[str, Any] = self.place.json("train", self.workflow, *BY_ANN, *options)
        return told

    def proposed(self, *candidate: object, since: str, until: str) -> str:
        """A release of a candidate, with the backtest of this window; its id."""
        window = ("--since", since, "--until", until)
        made = self.place.json("backtest", "run", self.workflow, *candidate, *window, *BY)
        evidence = ("--backtest", made["id"])
        told = self.place.json("release", "propose", self.workflow, *candidate, *evidence, *BY_ANN)
        return str(told["release"]["release_id"])

    def shadow(self, release: str, *, since: str) -> None:
        """Let a release score all that came in since then, in a process of its own."""
        self.place.json("release", "shadow", "start", release, "--since", since, *BY)

    def scored(self, release: str) -> Mapping[str, Any]:
        """Wait until a release has scored everything, or is out of it; where it stands."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            (told,) = self.place.json("release", "shadow", "status", release)["shadows"]
            if told["state"] != "shadow" or told["lag_seconds"] == 0:
                return told
            assert time.monotonic() < end, f"it still scores: {told}"
            time.sleep(1)

    def gates(self, release: str, moment: str) -> dict[str, dict[str, Any]]:
        """What every gate before promotion says, by what was known by a moment."""
        asked = ("release", "gates", release, "--stage", "promotion", "--known-by", moment)
        code, out, err = self.place.run(*asked, *BY, "--json")
        assert code in (exits.OK, BLOCKED), err
        told = json.loads(out)
        assert told["is_passed"] is (code == exits.OK)
        return {gate["gate"]: gate for gate in told["gates"]}

    def promoted(self, release: str) -> str:
        """The hash of the policy that is in production when one has approved, another promoted."""
        self.place.json("release", "approve", release, "--stage", "promotion", "--as", "bob")
        self.place.json("release", "promote", release, *BY_ANN)
        return self.production()

    def production(self) -> str:
        """The hash of the policy in production."""
        (now,) = self.place.json("release", "status")["production"]
        return str(now["policy"])

    def check_replay(self) -> None:
        """Decisions made again are the same bits."""
        told = self.place.json("replay", "--workflow", self.workflow, "--sample", 1_000)
        assert told["causes"].keys() == {"identical"}, told


def blocking(gates: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The gates that do not pass, and what they say."""
    return {name: g["verdict"] for name, g in gates.items() if g["verdict"] != "pass"}


@contextmanager
def candidates(place: Place) -> Generator[None]:
    """The process that lets candidates run, as `tiebreak up` starts it."""
    command = [sys.executable, "-m", "tiebreak.embedded.candidates"]
    with (place.folder / "candidates.log").open("ab") as log:
        process = subprocess.Popen(command, env=place.environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def copied(workflow: str, folder: Path, change: Callable[[str, str], str]) -> Path:
    """A copy of a workflow's folder; `change` gets each file's name and text, and gives another."""
    folder.mkdir()
    for file in (ROOT / "workflows" / workflow).glob("*.yaml"):
        (folder / file.name).write_text(change(file.name, file.read_text()))
    return folder


def written(text: str, section: str, whole: str) -> str:
    """The text of workflow.yaml with this section instead of its own."""
    own = re.compile(rf"^{section}:.*\n(?:(?:[ \t#].*)?\n)*", re.MULTILINE)
    return own.sub("", text).rstrip("\n") + "\n" + whole
