"""What a workflow is: fields, history, features, rules, bands and knobs, as immutable values.

These models hold a *checked* workflow. Reading YAML, naming mistakes with file and line and
storing versions belong to `tiebreak.workflows`; nothing here reads a file.
"""

from __future__ import annotations

import hashlib
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Constraint

from tiebreak.core.release_plan import ReleasePlan

Name = Annotated[str, Constraint(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
BandLabel = Literal["low", "medium", "high", "critical"]
LabelSource = Literal["outcome", "adjudicated", "review"]
FeatureKind = Literal["number", "category", "text"]
# best: what ranks better
FamilyChoice = Literal["xgboost", "lightgbm", "hist_gradient_boosting", "ebm", "best"]

MOST_DAYS = 36_525  # a hundred years; beyond, times would leave what columns hold


class FieldType(StrEnum):
    """Types a ticket's field can have, each with one column type in the core."""

    TEXT = "text"  # String
    CATEGORY = "category"  # String, one of `values` where they are declared
    INTEGER = "integer"  # Int64
    NUMBER = "number"  # Float64, finite
    BOOLEAN = "boolean"  # Boolean
    TIMESTAMP = "timestamp"  # Datetime("us", "UTC")
    DATE = "date"  # Date
    TAGS = "tags"  # List(String), each one of `values` where they are declared


# fields by whose values tickets may be told apart in a report
SEGMENT_TYPES = (FieldType.CATEGORY, FieldType.TEXT, FieldType.BOOLEAN, FieldType.INTEGER)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Field(_Frozen):
    """One field of a ticket.

    `after` marks an after-the-fact field: it may be imported and may define labels, but a rule
    or feature that reads it is a mistake. `timezone`, `ambiguous` and `nonexistent` say how a
    zone-less timestamp is read; without `timezone` a zone-less timestamp is an error.
    """

    name: Name
    type: FieldType
    required: bool = False
    values: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    max_length: int = 10_000  # characters of a text, entries of tags
    pii: bool = False
    source: str | None = None  # column name in imported files; default: `name`
    after: bool = False
    timezone: str | None = None
    ambiguous: Literal["error", "earliest", "latest"] = "error"
    nonexistent: Literal["error", "forward"] = "error"
    description: str = ""


class Calendar(_Frozen):
    """The local time zone and the days on which nobody works.

    `holidays` are explicit dates: a named public calendar is expanded once, when the workflow is
    loaded, so that a version holds all it needs and means the same for ever.
    """

    timezone: str = "UTC"
    holidays: tuple[date, ...] = ()
    weekend: tuple[int, ...] = (6, 7)  # ISO weekdays, Monday is 1


class Entity(_Frozen):
    """Something that tickets have in common and that history is kept about.

    `key` holds expressions over the ticket's fields, most often just their names, whose values
    together identify it; when one of them is null the ticket has no such entity and its history
    features are null.
    """

    name: Name
    key: tuple[str, ...] = Constraint(min_length=1)


class EventKind(StrEnum):
    """What the history log records about a ticket."""

    ARRIVED = "arrived"
    CLOSED = "closed"
    OUTCOME = "outcome"


class RowFeature(_Frozen):
    """A feature computed from one ticket by an expression over its fields and `as_of`.

    A number is taken as it is, a category by a code, and a text by what training learnt of its
    words and pairs of words.
    """

    name: Name
    sql: str
    kind: FeatureKind = "number"
    description: str = ""


class HistoryFeature(_Frozen):
    """A feature computed from what was known about an entity just before `as_of`.

    aggregate  value
    count      events
    sum        sum of `value`
    mean       sum of `value` / events
    rate       events where `where` holds / events where `among` holds
    time_since seconds since the newest event
    last       `value` of the newest event
    open       arrived events - closed events, never negative

    Only events of kind `on` for which `where` (and for a rate `among`) holds are counted.
    `where`, `among` and `value` are expressions over the ticket's fields and, for closed and
    outcome events, over the outcome fields. `value` is kept as an integer: value x `scale`,
    halves to even; what does not fit in 64 bits is an error. `counts` says whether a ticket
    counts once, at its first such event, or whether every correction counts as a new event.
    """

    name: Name
    entity: Name
    aggregate: Literal["count", "sum", "mean", "rate", "time_since", "last", "open"]
    on: EventKind = EventKind.ARRIVED
    where: str | None = None
    among: str | None = None
    value: str | None = None
    scale: int = Constraint(default=1, ge=1, le=1_000_000)
    window_days: float | None = Constraint(default=None, gt=0, le=MOST_DAYS)
    counts: Literal["first", "current"] = "first"
    description: str = ""


class Rule(_Frozen):
    """A condition and what follows when it is true; a NULL condition does not fire.

    floor and ceiling bound the rules verdict to `band`; points add to the rules' sum; escalate
    makes a tie whatever the model says. A *hard* floor or ceiling also bounds the final band.
    The rule holds from `valid_from` (inclusive) to `valid_to` (exclusive), against `as_of`.
    """

    id: Annotated[str, Constraint(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    when: str
    effect: Literal["floor", "ceiling", "points", "escalate"]
    band: BandLabel | None = None
    points: int = Constraint(default=0, ge=-1_000, le=1_000)
    hard: bool = False
    message: str
    valid_from: datetime | None = None
    valid_to: datetime | None = None


class Cuts(_Frozen):
    """Where a scale is cut into bands: a value at or above a cut belongs to that band."""

    medium: float
    high: float
    critical: float


class EventSource(_Frozen):
    """One event about a ticket that a row of an imported file implies.

    Files that hold a ticket and its end in one row say here what became known when: `known_at`
    (a timestamp) and `when` (a condition) are expressions over all fields, after-the-fact and
    outcome fields included. The event is there where `when` is true and `known_at` is not null;
    it carries those outcome fields that `fields` names. A closed or acted event carries none
    unless it names some.
    """

    kind: Literal["outcome", "closed", "acted"]
    known_at: str
    when: str | None = None
    fields: tuple[Name, ...] = ()


class Label(_Frozen):
    """What the model learns: an expression over outcome fields that is true for a bad end.

    A label counts only when `maturity_days` have passed since the ticket's `as_of`, for either
    class. A ticket without an outcome is then what `absent` says: `unknown` leaves it out,
    `negative` fits ends that are only told when they are bad, `positive` work that is late anyway.

    `precedence` says who is believed first: what really happened (`outcome`), what reviewers agree
    on or a lead says (`adjudicated`), what one reviewer alone says (`review`). A reviewer's band
    means a bad end from `review_from` on. Silence counts as `absent` says only where `outcome` is
    among them, and after all of them.
    """

    name: Name
    sql: str
    maturity_days: float = Constraint(ge=0, le=MOST_DAYS)
    absent: Literal["negative", "positive", "unknown"] = "unknown"
    # left out where they are the default, so that versions from before them keep their names
    precedence: tuple[LabelSource, ...] = Constraint(
        default=("outcome",), min_length=1, max_length=3, exclude_if=lambda x: x == ("outcome",)
    )
    review_from: BandLabel = Constraint(default="high", exclude_if=lambda x: x == "high")


class Knobs(_Frozen):
    """The numbers by which a team tunes a workflow; each keeps its history."""

    points: Cuts = Cuts(medium=20, high=50, critical=80)
    probability: Cuts = Cuts(medium=0.15, high=0.40, critical=0.75)
    agreement_distance: int = Constraint(default=1, ge=0, le=3)  # bands further apart make a tie
    uncertain_low: float = Constraint(default=0.0, ge=0, le=1)  # scores in [low, high) are
    uncertain_high: float = Constraint(default=0.0, ge=0, le=1)  # uncertain: any difference ties
    review_from: BandLabel | None = "critical"  # this band and above always go to review
    audit_share: float = Constraint(default=0.01, ge=0, le=1)  # of auto tickets, to review


class Retention(_Frozen):
    """How long content is kept before it may be erased, in days."""

    ticket_days: int = Constraint(default=2_555, ge=1, le=MOST_DAYS)


class Workflow(_Frozen):
    """A named kind of ticket and how it is decided; everything but its rules."""

    name: Name
    title: str
    description: str = ""
    ticket_id: str = "ticket_id"  # source column of the ticket's id in imported files
    time: Name  # the field that says when the ticket was opened
    calendar: Calendar = Calendar()
    fields: tuple[Field, ...]
    outcome_fields: tuple[Field, ...] = ()
    events: tuple[EventSource, ...] = ()
    entities: tuple[Entity, ...] = ()
    features: tuple[RowFeature | HistoryFeature, ...] = ()
    knobs: Knobs = Knobs()
    label: Label | None = None
    # left out where it is the default, so that versions from before it was there keep their names
    family: FamilyChoice = Constraint(default="xgboost", exclude_if=lambda x: x == "xgboost")
    retention: Retention = Retention()
    release: ReleasePlan = Constraint(
        default=ReleasePlan(), exclude_if=lambda plan: plan == ReleasePlan()
    )
    # fields by whose values reports of training and gates tell tickets apart
    slices: tuple[Name, ...] = Constraint(default=(), exclude_if=lambda x: x == ())

    @property
    def version(self) -> str:
        """Content address of this configuration: SHA-256 in hex over its canonical JSON."""
        return content_hash(self)


class RuleSet(_Frozen):
    """The rules of a workflow, in order."""

    rules: tuple[Rule, ...] = ()

    @property
    def version(self) -> str:
        """Content address of these rules: SHA-256 in hex over their canonical JSON."""
        return content_hash(self)


def content_hash(model: BaseModel) -> str:
    """SHA-256 in hex over the model's canonical JSON: sorted keys, no white space, UTF-8."""
    data = orjson.dumps(model.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()
