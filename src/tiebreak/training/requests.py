"""What is asked of a training run, from whoever asks to the process that trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from tiebreak.core.workflow import FamilyChoice
from tiebreak.training.fit import Parameters


@dataclass(frozen=True, slots=True)
class Request:
    """Which version of a workflow to train, on what, how, by whom and why.

    `valid_from` None puts the latest `VALIDATION_SHARE` of the tickets aside for validation,
    `family` None takes the workflow's; they replace those of `parameters`.
    """

    workflow: str
    workflow_version: str
    known_by: datetime
    valid_from: datetime | None
    family: FamilyChoice | None
    parameters: Parameters
    author: str
    reason: str

    @property
    def asked(self) -> dict[str, Any]:
        """The parameters as far as they are given before any data is read."""
        given = {"valid_from": self.valid_from, "family": self.family}
        return {**asdict(self.parameters), **given}

    def dump(self) -> str:
        """The request as JSON."""
        return _REQUEST.dump_json(self).decode()

    @classmethod
    def load(cls, data: str) -> Request:
        """The request that `dump` wrote."""
        return _REQUEST.validate_json(data)


_REQUEST = TypeAdapter(Request)
