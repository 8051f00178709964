"""What `docs/results.md` tells, made again on real tickets: `python -m bench.real FOLDER [names]`.

Everything goes through the product's commands, in a data folder of its own that is removed at the
end. Figures go to `docs/results.json`, and from there into the tables of `docs/results.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.real_tables import RESULTS, rewrite
from bench.stack import tiebreak

ROOT = Path(__file__).parent.parent
APPROVER = "approver"
ENGINEER = "engineer"
REPLAYED = "3000"
WITHOUT = "without text"


@dataclass(frozen=True)
class Story:
    """A workflow, the files it is told by, how it is trained, and what is decided.

    `trained` are options of `tiebreak train`: what trains and calibrates was known by
    `decided_from`, when deciding begins. `has_text`: the same is trained without words as well.
    """

    workflow: str
    files: tuple[str, ...]
    known_by: str
    decided_from: str
    trained: tuple[str, ...] = ()
    has_text: bool = True


_BOSTON = tuple(f"boston311/tickets_{years}.parquet" for years in ("2008_2015", "2016", "2017"))
_AUTUMN = ("--tune-from", "2016-09-01")  # earlier tickets teach, the rest of 2016 calibrates
STORIES = (
    Story(
        workflow="boston311",
        files=_BOSTON,
        known_by="2017-01-09",
        decided_from="2017-01-01",
        trained=(*_AUTUMN, "--learning-rate", "0.05", "--trees", "400"),
    ),
    Story(
        workflow="boston311_violation",
        files=_BOSTON,
        known_by="2017-01-09",
        decided_from="2017-01-01",
        trained=_AUTUMN,
    ),
    Story(
        workflow="itsm",
        files=("itsm/incidents.parquet",),
        known_by="2016-04-23",
        decided_from="2016-04-15",
        trained=("--train-from", "2016-03-16", "--depth", "3", "--learning-rate", "0.05"),
        has_text=False,
    ),
)
Tell = Callable[[str], None]


@dataclass
class Teller:
    """Runs a story's commands one after the other, and takes the time of each."""

    story: Story
    data: Path
    folder: Path
    tell: Tell
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def told(self) -> dict[str, Any]:
        """The whole story's figures, as plain data."""
        name, since = self.story.workflow, ("--since", self.story.decided_from)
        files = [str(self.data / file) for file in self.story.files]
        self._run("load", "workflow", "load", str(ROOT / "workflows" / name), *_WHY)
        imported = self._run("import", "import", name, *files)
        self._run("engineer", "keys", "create", "--person", ENGINEER, "--role", "ml_engineer")
        trained = self._train("train")
        self._run("approver", "keys", "create", "--person", APPROVER, "--role", APPROVER)
        people = ("--as", ENGINEER, "--approved-by", APPROVER)
        self._run("install", "release", "install", name, "--without-gates", *people, *_WHY)
        decided = self._run("decide", "tickets", "decide", name, *since)
        both = ("--beside", trained["bundle_digest"]) if self.story.has_text else ()
        assessed = self._run("assess", "assess", name, *since, *both)
        replayed = self._run("replay", "replay", "--workflow", name, "--sample", REPLAYED)
        text = self._text(trained, since, assessed["beside"]) if self.story.has_text else None
        verified = self._run("verify", "audit", "verify")
        return {
            "imported": imported["tickets"],
            "trained": _kept(trained, ("family", "trees", "rows", "seed")),
            "decided": decided["decided"],
            "assessed": assessed | {"beside": None},
            "text": text,
            "replayed": _kept(replayed, ("replayed", "identical")),
            "verified": verified["verified"],
            "seconds": self.seconds,
        }

    def _text(
        self, trained: dict[str, Any], since: Sequence[str], whole: dict[str, Any]
    ) -> dict[str, Any]:
        """What words gain and cost: the `whole` model beside the same one without them."""
        name, folder = self.story.workflow, self.folder / "without_text"
        without_words(ROOT / "workflows" / name, folder)
        self._run("load again", "workflow", "load", str(folder), "--reason", WITHOUT)
        plain = self._train("train without text")
        beside = ("--beside", plain["bundle_digest"])
        told = {
            "with": whole,
            "without": self._run("assess without text", "assess", name, *since, *beside)["beside"],
        }
        seconds = (self.seconds["train"], self.seconds["train without text"])
        for which, taken, run in zip(told, seconds, (trained, plain), strict=True):
            size = self._bytes(run["bundle_digest"])
            told[which] |= {"bytes": size, "training_seconds": taken, "trees": run["trees"]}
        return told

    def _train(self, step: str) -> dict[str, Any]:
        story = self.story
        moments = ("--known-by", story.known_by, "--valid-from", story.decided_from)
        by = ("--as", ENGINEER, *_WHY)
        return self._run(step, "train", story.workflow, *moments, *story.trained, *by)

    def _bytes(self, digest: str) -> int:
        file = self.folder / f"{digest}.bundle"
        tiebreak(self.folder / "data", 1, "model", "export", digest, "--to", str(file))
        return file.stat().st_size

    def _run(self, step: str, *arguments: str) -> dict[str, Any]:
        begun = time.monotonic()
        found = tiebreak(self.folder / "data", 1, *arguments)
        self.seconds[step] = round(time.monotonic() - begun, 1)
        self.tell(f"{self.story.workflow}: {step} ({self.seconds[step]:.0f} s)")
        return found


_WHY = ("--reason", "first version")


def without_words(workflow: Path, to: Path) -> None:
    """Copy a workflow's folder without the features that are learnt from words."""
    shutil.copytree(workflow, to)
    features = to / "features.yaml"
    lines = features.read_text().splitlines(keepends=True)
    features.write_text("".join(line for line in lines if "kind: text}" not in line))


def tell_all(data: Path, names: Sequence[str], tell: Tell) -> dict[str, Any]:
    """The figures of the named stories, each in a folder of its own that is removed after it."""
    found: dict[str, Any] = {}
    for story in STORIES:
        if story.workflow not in names:
            continue
        folder = Path(tempfile.mkdtemp(prefix="tiebreak-real-"))
        folder.chmod(0o711)  # the database's own account passes through
        try:
            found[story.workflow] = Teller(story, data, folder, tell).told()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def missing(data: Path, names: Sequence[str]) -> list[str]:
    """The files that the named stories need and that are not there."""
    wanted = [file for story in STORIES if story.workflow in names for file in story.files]
    return [str(data / file) for file in dict.fromkeys(wanted) if not (data / file).is_file()]


def _kept(told: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: told[name] for name in names}


def main() -> int:
    """Tell the named stories, all of them without names."""
    known = [story.workflow for story in STORIES]
    parser = argparse.ArgumentParser(description="Make the figures of docs/results.md again.")
    parser.add_argument("data", type=Path, help="the folder that holds boston311/ and itsm/")
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of {', '.join(known)}")
    given = parser.parse_args()
    names = given.names or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no story {', '.join(unknown)}")
    if absent := missing(given.data, names):
        parser.error(f"there is no real data to tell of: {', '.join(absent)}")
    found = tell_all(given.data, names, lambda line: print(line, file=sys.stderr, flush=True))
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= found
    ordered = {name: results[name] for name in known if name in results}
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n")
    rewrite()
    return 0


if __name__ == "__main__":
    sys.exit(main())
