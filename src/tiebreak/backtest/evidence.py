"""Evidence: finished backtests as files, content-addressed and bound to a policy hash.

    <data>/backtests/<id>.json

`evidence` holds what was found and all that it depends on; the id is its SHA-256, so that an
edited file is no longer evidence. `run` says how it came about: by whom, when, for how long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tiebreak.bundles.folder import write_whole
from tiebreak.errors import IntegrityFailure, InvalidInput, NotFound
from tiebreak.settings import Settings

FORMAT = 2


class NoSuchBacktest(NotFound):
    """There is no backtest with this id."""

    code = "no_such_backtest"


class AmbiguousBacktest(InvalidInput):
    """More than one backtest begins with these digits."""

    code = "ambiguous_backtest"


class AlteredBacktest(IntegrityFailure):
    """The file of a backtest does not hold what its id says."""

    code = "altered_backtest"


@dataclass(frozen=True, slots=True)
class Backtest:
    """A finished backtest."""

    id: str
    evidence: Mapping[str, Any]
    run: Mapping[str, Any]

    def as_data(self) -> dict[str, Any]:
        """The backtest as plain data, the same as its file."""
        return {"id": self.id, "evidence": self.evidence, "run": self.run}


@dataclass(frozen=True, slots=True)
class Evidence:
    """The folder of finished backtests."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> Evidence:
        """The backtests of an installation."""
        return cls(settings.data_dir / "backtests")

    def put(self, evidence: Mapping[str, Any], run: Mapping[str, Any]) -> Backtest:
        """Keep what was found."""
        made = Backtest(address(evidence), evidence, run)
        data = orjson.dumps(made.as_data(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
        write_whole(self.folder / f"{made.id}.json", data + b"\n")
        return self.get(made.id)

    def get(self, start: str) -> Backtest:
        """The one backtest whose id begins so.

        Raises `NoSuchBacktest`, `AmbiguousBacktest` and `AlteredBacktest`.
        """
        found = [path for path in self._paths() if path.stem.startswith(start)]
        if not found:
            raise NoSuchBacktest(hint="`tiebreak backtest list` names them.", backtest=start)
        if len(found) > 1:
            ids = [path.stem for path in found]
            raise AmbiguousBacktest(hint="Give more digits of it.", backtests=ids)
        return _read(found[0])

    def list(self) -> list[Backtest]:
        """All backtests, newest first. Raises `AlteredBacktest`."""
        found = [_read(path) for path in self._paths()]
        return sorted(found, key=lambda each: str(each.run["finished_at"]), reverse=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))


def address(evidence: Mapping[str, Any]) -> str:
    """SHA-256 in hex over the canonical JSON."""
    return hashlib.sha256(orjson.dumps(evidence, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _read(path: Path) -> Backtest:
    try:
        data = orjson.loads(path.read_bytes())
        found = Backtest(data["id"], data["evidence"], data["run"])
    except (ValueError, KeyError, TypeError):
        found = None
    if found is None or address(found.evidence) != found.id or found.id != path.stem:
        raise AlteredBacktest(hint="Delete the file and run the backtest again.", file=str(path))
    return found
