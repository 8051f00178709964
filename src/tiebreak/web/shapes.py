"""The shapes of answers, for the API's description; a contract test holds answers to them.

Answers are written straight to JSON; these models never touch the hot path.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tiebreak.core.workflow import FamilyChoice
from tiebreak.training.ends import Result
from tiebreak.web.moments import Moment

BandName = Literal["low", "medium", "high", "critical"]
RouteName = Literal["auto", "tiebreak", "review"]
REASON_MAX_LENGTH = 500
REASON: Any = Field(
    min_length=1,
    max_length=REASON_MAX_LENGTH,
    pattern=r"^[^\x00]*[!-~][^\x00]*$",
    description="Why; it stands on the run's record, so it holds no personal data.",
    examples=["the quarter has ended"],
)


def _whole(value: object) -> object:
    """A whole number as JSON has it: 3 and 3.0, not "3" or true."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a whole number")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]


class Shape(BaseModel):
    """An answer, or a part of one; it holds what is listed and nothing else."""

    model_config = ConfigDict(extra="forbid")


class FiredRule(Shape):
    """A rule whose condition was true, with the values that made it so."""

    rule: str
    effect: Literal["floor", "ceiling", "points", "escalate"]
    message: str
    values: dict[str, Any]


class RulesVerdict(Shape):
    """What the rules say; `fired` is null once the ticket was erased."""

    band: BandName
    points: int
    hard_floor: BandName | None
    fired: list[FiredRule] | None


class TopContribution(Shape):
    """A feature and its part of the margin, in log-odds."""

    feature: str
    contribution: float


class ModelVerdict(Shape):
    """What the model says; only `status` when it did not score.

    The features that moved the margin most are left out when the decision's model is not the one
    in production; the explanation has them all.
    """

    status: Literal["scored", "absent", "failed"]
    band: BandName | None = None
    score: float | None = Field(default=None, description="Calibrated probability.")
    margin: float | None = Field(default=None, description="Log-odds before calibration.")
    base_value: float | None = None
    top_contributions: list[TopContribution] | None = None


class ExpressionFault(Shape):
    """A rule or feature that could not be evaluated on this ticket, and why."""

    where: str
    code: str


class Decision(Shape):
    """The record of all verdicts on one ticket revision, the final band and the route."""

    decision_id: str
    workflow: str
    ticket_id: str
    revision: int
    ordinal: int = Field(description="1, and more when decided again on request.")
    as_of: datetime = Field(description="The moment whose knowledge the decision used.")
    decided_at: datetime
    band: BandName
    route: RouteName
    route_reason: str
    is_tie: bool
    review_probability: float
    rules: RulesVerdict
    model: ModelVerdict
    policy_hash: str
    fingerprint: str
    errors: list[ExpressionFault]


class Word(Shape):
    """A word of a text, and what it adds to the text's score."""

    word: str
    part: float


class DecideAgain(Shape):
    """Why a ticket is decided again; it goes into the journal, so it holds no personal data."""

    reason: str = Field(min_length=1, max_length=REASON_MAX_LENGTH, examples=["new rules"])


class Contribution(Shape):
    """A feature, its value (null once the ticket was erased) and its part of the margin.

    The value of a text feature is the text's score: the log-odds that its words tell alone. It
    comes with the words that make most of it, until the ticket is erased.
    """

    feature: str
    value: Any
    contribution: float
    words: list[Word] | None = None


class Explanation(Shape):
    """Why the model said so: contributions + base value = margin, largest first."""

    decision_id: str
    unit: Literal["log-odds"]
    base_value: float
    margin: float
    score: float
    contributions: list[Contribution]


class DecisionSummary(Shape):
    """A decision in a list."""

    decision_id: str
    workflow: str
    ticket_id: str
    revision: int
    ordinal: int
    as_of: datetime
    decided_at: datetime
    band: BandName
    route: RouteName
    route_reason: str
    is_tie: bool
    score: float | None
    policy_hash: str


class DecisionPage(Shape):
    """Decisions, newest first; `next_cursor` is null on the last page."""

    decisions: list[DecisionSummary]
    next_cursor: str | None


class Revision(Shape):
    """One revision of a ticket; `fields` is null once it was erased."""

    revision: int
    as_of: datetime
    received_at: datetime
    origin: Literal["live", "import", "arrived"]
    actor: str
    fields: dict[str, Any] | None


class Outcome(Shape):
    """What became known of a ticket; `fields` is null once it was erased."""

    ordinal: int
    kind: Literal["outcome", "closed", "acted"]
    known_at: datetime
    given_at: datetime | None
    received_at: datetime
    actor: str
    fields: dict[str, Any] | None


class TicketHistory(Shape):
    """All that is stored of a ticket, each list oldest first."""

    workflow: str
    ticket_id: str
    revisions: list[Revision]
    decisions: list[DecisionSummary]
    outcomes: list[Outcome]


class OutcomeReceipt(Shape):
    """An outcome as it was stored; sending the same content again gives the same receipt."""

    workflow: str
    ticket_id: str
    ordinal: int
    kind: Literal["outcome", "closed", "acted"]
    known_at: datetime


class WorkflowVersion(Shape):
    """A stored version of a workflow's configuration and rules."""

    ordinal: int
    workflow_version: str
    rules_version: str
    created_at: datetime
    author: str
    reason: str


class Production(Shape):
    """The policy that decides a workflow's tickets now."""

    policy_hash: str
    workflow_version: str
    rules_version: str
    bundle_digest: str | None = Field(description="Null: rules decide alone.")
    model_status: Literal["scored", "absent", "failed"]


class WorkflowSummary(Shape):
    """A loaded workflow: its newest version and what is in production, if anything is."""

    workflow: str
    newest_version: WorkflowVersion
    production: Production | None


class WorkflowList(Shape):
    """The loaded workflows, by name."""

    workflows: list[WorkflowSummary]


class WorkflowDetail(Shape):
    """A workflow with the JSON Schemas of what it takes.

    They are those of the policy in production, else of the newest version.
    """

    workflow: str
    title: str
    description: str
    production: Production | None
    ticket_schema: dict[str, Any]
    outcome_schema: dict[str, Any]


class WorkflowVersionList(Shape):
    """The stored versions of a workflow, newest first."""

    workflow: str
    versions: list[WorkflowVersion]


class Mistake(Shape):
    """One mistake in an input: where it is, what is wrong, and how to mend it."""

    where: str
    code: str
    message: str
    hint: str


class AuditEntry(Shape):
    """One change: who made it, when, and what it was."""

    audit_id: str
    at: datetime
    actor: str = Field(description="A person, or `person/key_id` when it came with a key.")
    action: str = Field(examples=["release.installed"])
    subject: str = Field(description="What was changed.")
    detail: dict[str, Any]


class AuditPage(Shape):
    """Changes, newest first; `next_cursor` is null on the last page."""

    entries: list[AuditEntry]
    next_cursor: str | None


class StartTraining(Shape):
    """What to train on and how; all but the reason has a default."""

    reason: str = REASON
    known_by: Moment | None = Field(None, description="Use only what was known then; null: now.")
    valid_from: Moment | None = Field(
        None, description="Tickets from then on only validate; null: the latest fifth."
    )
    tune_from: Moment | None = Field(
        None,
        description="Tickets from then on stop and calibrate the trees, and only labels known by "
        "then teach; null: the last fifth before validation.",
    )
    family: FamilyChoice | None = Field(None, description="Null: the workflow's.")
    seed: Whole = Field(0, ge=0, le=2**31 - 1)
    trees: Annotated[int, Field(ge=1, le=2000), BeforeValidator(_whole)] | None = None
    depth: Annotated[int, Field(ge=1, le=8), BeforeValidator(_whole)] | None = None
    learning_rate: Annotated[float, Field(strict=True, ge=0.001, le=1)] | None = None


class CancelTraining(Shape):
    """Why a run is ended."""

    reason: str = REASON


class TrainingRun(Shape):
    """A training run: how far it is while it waits or runs, and what came of it."""

    run_id: str
    workflow: str
    workflow_version: str
    state: Literal["queued", "running"] | Result
    step: str | None = Field(description="What it does, or did when it ended.")
    share: float | None = Field(description="Of the step that is done; null once it ended.")
    cancelled_by: str | None = Field(description="Who told it to end.")
    author: str
    reason: str
    started_at: datetime | None
    finished_at: datetime | None
    seed: int
    parameters: dict[str, Any]
    data_hash: str | None = Field(description="Null until all data was read.")
    bundle_digest: str | None
    metrics: dict[str, Any] = Field(description="Figures of the model, or why there is none.")
    versions: dict[str, Any]


class TrainingRunPage(Shape):
    """Training runs, newest first; `next_cursor` is null on the last page."""

    runs: list[TrainingRun]
    next_cursor: str | None


class StoredModel(Shape):
    """One stored bundle; `problem` says why it does not load, and then nothing else is known."""

    digest: str
    workflow: str | None
    family: str | None
    trees: int | None
    metrics: dict[str, float | None] = Field(description="On tickets it was not trained on.")
    origin: str | None = Field(description="`trained`, or `legacy joblib`.")
    made_at: datetime | None
    made_by: str | None
    uses: list[str] = Field(description="Such as `locate: production`.")
    key_id: str | None
    algorithm: str | None
    problem: str | None


class ModelList(Shape):
    """The stored models, newest first."""

    models: list[StoredModel]


class ModelRelease(Shape):
    """A release record that names the model."""

    workflow: str
    seq: int
    kind: str = Field(description="`install`: it came into production without gates.")
    policy_hash: str
    author: str
    approver: str
    reason: str
    created_at: datetime


class ModelLineage(Shape):
    """What the model came from, and what names it."""

    data_hash: str | None
    run_id: str | None
    reason: str | None
    policies: list[str]
    releases: list[ModelRelease]


class ModelDetail(Shape):
    """One model with its manifest and lineage."""

    model: StoredModel
    manifest: dict[str, Any]
    lineage: ModelLineage


class ProblemDocument(Shape):
    """An error, after RFC 9457; `code` is stable, `hint` is the next step."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    problems: list[Mistake]
    request_id: str
    fields: dict[str, Any] | None = None


class BatchLine(Shape):
    """The answer to one line of a batch: a decision, or the error of that line alone."""

    line: int = Field(ge=1)
    status: int
    decision: Decision | None = None
    error: ProblemDocument | None = None


class Readiness(Shape):
    """Whether this worker decides tickets, and everything that is wrong.

    `degraded`: it decides, with less than it should (for one, rules alone).
    """

    status: Literal["ready", "degraded", "not_ready"]
    problems: list[Mistake]
    warnings: list[Mistake] = Field(description="What people are late with.")


class Liveness(Shape):
    """The process runs."""

    status: Literal["alive"]
