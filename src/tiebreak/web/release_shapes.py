"""The shapes of answers and requests about releases, for the API's description."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tiebreak.backtest.orders import State as BacktestState
from tiebreak.backtest.outcomes import MINUTES_A_REVIEW
from tiebreak.registry import records
from tiebreak.release.approvals import MOST_HOURS
from tiebreak.release.demotion import Target
from tiebreak.release.states import Kind, Stage, State
from tiebreak.web.moments import Moment
from tiebreak.web.shapes import REASON_MAX_LENGTH, Mistake, Shape

NO_NUL = r"^[^\x00]*$"  # Postgres takes none in a text


def _whole(value: object) -> object:
    """A number without fraction is an integer in JSON, however it is written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Hours = Annotated[int, Field(ge=1, le=MOST_HOURS), BeforeValidator(_whole)]
Number = Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(_whole)]  # of a record
Percent = Annotated[int, Field(ge=1, le=100), BeforeValidator(_whole)]
Reason = Annotated[
    str,
    Field(
        min_length=1,
        max_length=REASON_MAX_LENGTH,
        pattern=r"^[^\x00]*[^\s\x00][^\x00]*$",
        description="Why; it stands in the journal, so it holds no personal data.",
        examples=["fewer needless reviews"],
    ),
]
Note = Annotated[
    str,
    Field(
        max_length=REASON_MAX_LENGTH,
        pattern=NO_NUL,
        description="A remark; no personal data.",
        examples=["figures look right"],
    ),
]
Evidence = Annotated[
    str,
    Field(
        pattern="^[0-9a-f]{8,64}$",
        description="Id of the backtest, or its first digits.",
        examples=["9c1185a5c5e9"],
    ),
]
Start = Annotated[str, Field(pattern="^[0-9a-f]{1,64}$", examples=["9c1185a5c5e9"])]
Bundle = Annotated[str, Field(pattern="^([0-9a-f]{1,64}|none)$", examples=["none"])]
FileName = Literal["workflow.yaml", "features.yaml", "rules.yaml", "examples.yaml"]
DryRun = Annotated[bool, Field(description="Check everything and change nothing.")]
WasDryRun = Annotated[bool, Field(description="True: everything was checked, nothing is kept.")]
Seen = Annotated[
    Number | None,
    Field(
        description="Number of the record that was seen; refused when another is in production. "
        "Null: whatever is.",
    ),
]
ID = "4f0f2a68-6d3c-4a4e-9f3c-0d6f6a1c7b21"
HASH = "9c1185a5c5e9fc54612808977ee8f548b2258d31" + "0" * 24


class Release(Shape):
    """A candidate and where it stands."""

    release_id: str = Field(examples=[ID])
    workflow: str = Field(examples=["locate"])
    policy_hash: str = Field(examples=[HASH])
    base_seq: int = Field(
        description="Number of the record in production that it is compared with; 0: none."
    )
    backtest_id: str = Field(examples=[HASH])
    author: str = Field(examples=["ann"])
    reason: str = Field(examples=["fewer needless reviews"])
    created_at: datetime
    state: State = Field(examples=["shadow"])


class ReleasePage(Shape):
    """Releases, newest first; `next_cursor` is null on the last page."""

    releases: list[Release]
    next_cursor: str | None


class ReleaseApproval(Shape):
    """One person's approval of a release for a stage."""

    evaluation_id: str
    approver: str
    release_id: str
    stage: Stage
    policy_hash: str
    production_seq: int
    given_at: datetime
    expires_at: datetime
    note: str


class ReleaseEvent(Shape):
    """One thing that happened to a release."""

    seq: int
    kind: Kind
    actor: str
    at: datetime
    detail: dict[str, Any]


class Candidate(Release):
    """A release on its way."""

    percent: int = Field(ge=0, le=100, description="Of the tickets that it decides now.")
    is_current: bool = Field(description="False: production moved, its evidence is void.")


class GateFigures(Shape):
    """What the gates before a stage said, and what it depends on."""

    stage: Stage
    policy_hash: str
    production_seq: int = Field(description="Number of the production record it is bound to.")
    is_passed: bool
    known_by: datetime = Field(description="They were asked by what was known then.")
    results: dict[str, Any] = Field(
        description="`gates` with verdict, figure, limit and a sentence each; limits in force, "
        "seed, moment of knowledge and hashes of the evidence."
    )


class GateEvaluation(GateFigures):
    """What the gates before a stage said last, and what it depends on."""

    evaluation_id: str
    evaluated_at: datetime


class GateAnswer(GateFigures):
    """What the gates say now, and what it depends on."""

    release_id: str
    evaluation_id: str | None = Field(
        description="Null: it was not kept, because the candidate is in quarantine or production "
        "moved; then it never passes."
    )
    evaluated_at: datetime | None


class GateEvaluations(Shape):
    """What the gates said of a release; null before they were asked."""

    release_id: str
    canary: GateEvaluation | None
    promotion: GateEvaluation | None


class ReleaseDetail(Candidate):
    """A release with its approvals, what its gates said, and everything that happened to it."""

    approvals: list[ReleaseApproval]
    evaluations: dict[Stage, GateEvaluation] = Field(
        description="The newest one of each stage before which the gates were asked."
    )
    events: list[ReleaseEvent]


class InProduction(Shape):
    """What is in production for a workflow; all but `state` is null when its record is forged."""

    workflow: str
    state: Literal["production", "forged_release"]
    seq: int | None
    kind: records.Kind | None
    policy: str | None
    model: str | None = Field(description="Null: rules decide alone.")
    author: str | None
    approver: str | None = Field(description="Null: a demotion.")
    since: datetime | None
    reason: str | None
    is_gated: bool | None = Field(description="False: this policy never passed gates.")


class UnsignedDemotion(Shape):
    """A demotion that waits for its second signature."""

    workflow: str
    seq: int
    policy_hash: str
    author: str
    reason: str
    created_at: datetime
    due_at: datetime
    is_overdue: bool


class ReleaseOverview(Shape):
    """What is in production, what is on its way there, and what awaits a signature."""

    production: list[InProduction]
    candidates: list[Candidate]
    demotions: list[UnsignedDemotion]
    problems: list[Mistake]


class PartChange(Shape):
    """A part in which a policy differs from the one in production."""

    part: str
    before: str | int | None
    after: str | int | None


class ProductionRecord(Shape):
    """The release record that says what is in production now."""

    workflow: str
    seq: int
    policy_hash: str
    bundle_digest: str | None = Field(description="Null: rules decide alone.")
    author: str
    approver: str | None = Field(description="Null: a demotion.")
    reason: str
    created_at: datetime
    kind: records.Kind
    release_id: str | None


class Done(ProductionRecord):
    """The release record of a step, or the one that it would leave."""

    dry_run: WasDryRun


class Withdrawn(Release):
    """The release that was taken back, or would be."""

    dry_run: WasDryRun


class GivenApproval(ReleaseApproval):
    """The approval that was given, or would be."""

    dry_run: WasDryRun


class Countersigned(Shape):
    """A demotion that was signed by a second person, or would be."""

    workflow: str
    seq: int
    dry_run: WasDryRun


class BacktestRequest(Shape):
    """A change to be tried on history; parts that are not given are those in production."""

    workflow: str = Field(max_length=200, pattern=NO_NUL, examples=["locate"])
    policy: Start | None = Field(
        None, description="Hash of a stored policy, or its first digits; alone."
    )
    files: dict[FileName, str] | None = Field(
        None, description="The texts of a workflow's folder by file: fields, features, rules, …"
    )
    bundle: Bundle | None = Field(
        None, description="Digest of a model, or its first digits; `none`: rules alone."
    )
    knobs: dict[str, bool | int | float | str | None] | None = Field(
        None, description="New values by dotted name.", examples=[{"points.high": 36}]
    )
    since: Moment | None = Field(None, description="First `as_of`; null: all of history.")
    until: Moment | None = Field(None, description="End of `as_of`; null: all of history.")
    by: list[str] | None = Field(None, description="Count by these fields; null: the slices.")
    minutes_a_review: float = Field(
        MINUTES_A_REVIEW, ge=0, le=1e6, description="How long a review takes, for reviewer hours."
    )


class BacktestError(Shape):
    """Why there is no evidence."""

    code: str
    message: str
    hint: str
    problems: list[Mistake]
    fields: dict[str, Any]


class BacktestRun(Shape):
    """A backtest that was asked for: how far it is, and what came of it."""

    run_id: str = Field(examples=[ID])
    workflow: str
    policy_hash: str = Field(description="Of the policy that is tried.")
    production: str | None = Field(description="The policy it is compared with.")
    changes: list[PartChange]
    since: datetime | None
    until: datetime | None
    by: list[str]
    minutes_a_review: float
    author: str
    asked_at: datetime
    state: BacktestState
    step: str | None = Field(description="What it does, or did when it ended.")
    share: float | None = Field(description="Of the tickets that are decided.")
    started_at: datetime | None
    finished_at: datetime | None
    cancelled_by: str | None
    backtest: str | None = Field(description="Id of the evidence, for a proposal.")
    error: BacktestError | None


class BacktestRunDetail(BacktestRun):
    """A backtest that was asked for, with what it found."""

    evidence: dict[str, Any] | None = Field(
        description="Figures and all that they depend on; null until it has finished."
    )


class BacktestPage(Shape):
    """Backtests that were asked for, newest first."""

    backtests: list[BacktestRun]


class Proposal(Shape):
    """A policy that was backtested, to be proposed as a release."""

    backtest: Evidence
    reason: Reason


class Withdrawal(Shape):
    """Why a release is taken back."""

    reason: Reason
    dry_run: DryRun = False


class ApprovalRequest(Shape):
    """What is approved of a release, and for how long."""

    stage: Stage = Field(examples=["promotion"])
    note: Note = ""
    hours: Hours | None = Field(
        None, description="How long it is valid; default, and at most: `release.approval_hours`."
    )
    dry_run: DryRun = False


class Promotion(Shape):
    """Why a release is promoted."""

    reason: Reason
    dry_run: DryRun = False


class Rollback(Shape):
    """To which earlier policy production goes back."""

    policy_hash: str = Field(pattern="^[0-9a-f]{64}$", examples=[HASH])
    reason: Reason
    seq: Seen = None
    dry_run: DryRun = False


class DemotionRequest(Shape):
    """What production goes back to at once: the policy before, or the rules alone."""

    reason: Reason
    to: Target = Field(Target.PREVIOUS, examples=["previous"])
    seq: Seen = None
    dry_run: DryRun = False


class Countersignature(Shape):
    """The second signature of a demotion."""

    seq: Number = Field(description="Number of the demotion's record.")
    note: Note = ""
    dry_run: DryRun = False


class ShadowStart(Shape):
    """Which share of the tickets a candidate scores, and from when on."""

    share: float = Field(
        1.0, gt=0, le=1, description="By the ticket's id: 0.1 is every tenth.", examples=[0.2]
    )
    since: Moment | None = Field(
        None, description="Score stored tickets from then on, too; null: from now on."
    )


class Stop(Shape):
    """Why a candidate is stopped or held."""

    reason: Reason


class CanaryShare(Shape):
    """Which share of the tickets a canary decides."""

    percent: Percent | None = Field(
        None,
        description="Null: that of the plan's next step. At most 50, and no step is skipped; 100 "
        "when it is through its steps, with the approval of a promotion.",
        examples=[5],
    )


class CanaryMove(CanaryShare):
    """The share that a canary decides next."""

    early: Reason | None = Field(
        None, description="Why the share grows before the step had its hours and tickets."
    )


class GateQuestion(Shape):
    """Before which stage the gates are asked."""

    stage: Stage | None = Field(
        None, description="Null: what comes next for the release.", examples=["promotion"]
    )
    known_by: Moment | None = Field(
        None, description="Count tickets and labels known by then; null: now. It is kept with it."
    )
