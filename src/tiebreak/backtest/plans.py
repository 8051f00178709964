"""What is asked of a backtest, and what a run fixes when it begins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import orjson

from tiebreak.backtest.evidence import FORMAT
from tiebreak.backtest.window import Span, Window
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import SEGMENT_TYPES, Workflow
from tiebreak.errors import InvalidInput
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.registry.policies import Recipe


class SegmentUnfit(InvalidInput):
    """Tickets cannot be told apart by this field."""

    code = "segment_unfit"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. Equal requests share an unfinished run."""

    workflow: str
    candidate: Recipe
    production: Recipe | None  # decides again what has no decision
    since: datetime | None
    until: datetime | None
    by: tuple[str, ...]

    @property
    def key(self) -> str:
        """Names the request on this engine."""
        data = {
            "candidate": self.candidate.parts.hash,
            "production": None if self.production is None else self.production.parts.hash,
            "asked": [self.workflow, self.since, self.until, self.by],
            "fingerprint": engine_fingerprint().hash,
            "format": FORMAT,
        }
        return hashlib.sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run fixed when it began: up to when it knows what, and the spans of its window."""

    known_by: datetime
    window: Window
    spans: Sequence[Span]
    is_recomputed: bool  # the context
    erased: int  # tickets that are missing in a recomputed history

    def dump(self) -> bytes:
        """The plan as JSON."""
        return orjson.dumps(asdict(self))

    @classmethod
    def load(cls, data: bytes) -> Plan:
        """The plan that `dump` wrote."""
        told = orjson.loads(data)
        moment = datetime.fromisoformat
        return cls(
            known_by=moment(told["known_by"]),
            window=Window(**{k: moment(v) for k, v in told["window"].items()}),
            spans=[
                Span(each["number"], moment(each["since"]), moment(each["until"]))
                for each in told["spans"]
            ],
            is_recomputed=told["is_recomputed"],
            erased=told["erased"],
        )


def check_segments(workflow: Workflow, by: Sequence[str]) -> None:
    """Raises `SegmentUnfit` where a name is not a field to tell tickets apart by."""
    fields = {f.name: f for f in workflow.fields if not f.after}
    for name in by:
        field = fields.get(name)
        if field is None:
            hint = did_you_mean(name, fields)
            raise SegmentUnfit(f"There is no field {name!r}.", hint=hint, field=name)
        if field.pii or field.type not in SEGMENT_TYPES:
            why = "is personal" if field.pii else f"is of type {field.type}"
            raise SegmentUnfit(
                f"The field {name!r} {why}.",
                hint="Take a category, a boolean, an integer or a text that is not personal.",
                field=name,
            )
