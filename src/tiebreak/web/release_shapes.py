"""The shapes of answers and requests about releases, for the API's description."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from tiebreak.release.states import Kind, Stage, State
from tiebreak.web.shapes import Shape

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


class ReleaseDetail(Release):
    """A release with its approvals and everything that happened to it."""

    percent: int = Field(ge=0, le=100, description="Of the tickets that it decides now.")
    is_current: bool = Field(description="False: production moved, its evidence is void.")
    approvals: list[ReleaseApproval]
    events: list[ReleaseEvent]
