"""A policy: exactly one version each of workflow, rules, model and tie-break, content-addressed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import orjson

from tiebreak.core.features import FeaturePlan
from tiebreak.core.model import Model
from tiebreak.core.rules import RulesPlan
from tiebreak.core.workflow import RuleSet, Workflow
from tiebreak.errors import Conflict

ModelStatus = Literal["scored", "absent", "failed"]


class ModelMismatch(Conflict):
    """The model was trained on other features than this workflow defines."""

    code = "model_mismatch"


@dataclass(frozen=True, slots=True)
class PolicyParts:
    """What a policy is made of, by version; equal parts are the same policy."""

    workflow: str
    workflow_version: str
    rules_version: str
    bundle_digest: str | None = None
    tiebreak_version: str | None = None
    history_generation: int = 1

    @property
    def hash(self) -> str:
        """SHA-256 in hex over the canonical JSON of the parts."""
        parts = {name: getattr(self, name) for name in self.__slots__}
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True)
class Policy:
    """A policy ready to decide.

    `model` is None when the parts name no bundle, or when the named bundle could not be loaded;
    the hash stays that of the parts, and decisions say which of the two it was.
    """

    parts: PolicyParts
    workflow: Workflow
    rules: RuleSet
    model: Model | None
    features_plan: FeaturePlan = field(repr=False)
    rules_plan: RulesPlan = field(repr=False)

    @classmethod
    def build(
        cls,
        workflow: Workflow,
        rules: RuleSet,
        *,
        model: Model | None = None,
        bundle_digest: str | None = None,
        tiebreak_version: str | None = None,
        history_generation: int = 1,
    ) -> Policy:
        """Compile a policy. `bundle_digest` may name a bundle whose model could not be loaded.

        Raises `ExpressionError` for mistaken expressions and `ModelMismatch` when the model's
        features are not those of the workflow.
        """
        features = FeaturePlan(workflow)
        if model is not None:
            _check_features(model, features)
        parts = PolicyParts(
            workflow=workflow.name,
            workflow_version=workflow.version,
            rules_version=rules.version,
            bundle_digest=model.digest if model is not None else bundle_digest,
            tiebreak_version=tiebreak_version,
            history_generation=history_generation,
        )
        plan = RulesPlan(rules, features, workflow.knobs.points)
        return cls(parts, workflow, rules, model, features, plan)

    @cached_property
    def hash(self) -> str:
        """The content address that stands on every decision."""
        return self.parts.hash

    @property
    def model_status(self) -> ModelStatus:
        """Whether decisions by this object are scored, and if not, why."""
        if self.model is not None:
            return "scored"
        return "absent" if self.parts.bundle_digest is None else "failed"

    @cached_property
    def margin_cuts(self) -> tuple[float, float, float]:
        """The probability cuts of the workflow in the model's margin space."""
        assert self.model is not None
        return self.model.margin_cuts(self.workflow.knobs.probability)

    def rules_alone(self) -> Policy:
        """The same policy with its model out of service."""
        return replace(self, model=None)


def _check_features(model: Model, plan: FeaturePlan) -> None:
    defined = plan.definitions()
    differing = sorted({s.reads for s in model.features if defined.get(s.reads) != s.definition})
    if differing:
        raise ModelMismatch(
            "The model was trained on other definitions of: " + ", ".join(differing) + ".",
            hint="Train a model on this version of the workflow.",
            features=differing,
        )
