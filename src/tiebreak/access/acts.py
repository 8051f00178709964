"""Acts: what is done over HTTP or by a command, and `ACCESS`, the one table of who may."""

from __future__ import annotations

from collections.abc import Mapping

from tiebreak.access.roles import Role
from tiebreak.errors import NotAllowed

PUBLIC: frozenset[Role] = frozenset()
EVERYONE = frozenset(Role)
MODELLERS = frozenset({Role.ML_ENGINEER, Role.APPROVER, Role.AUDITOR, Role.LEAD, Role.ADMIN})
SENDERS = frozenset({Role.SERVICE, Role.ADMIN})
TRAINERS = frozenset({Role.ML_ENGINEER, Role.ADMIN})
ENGINEERS = frozenset({Role.ML_ENGINEER})
APPROVERS = frozenset({Role.APPROVER})
DEMOTERS = ENGINEERS | APPROVERS | {Role.LEAD, Role.ADMIN}
RELEASE_READERS = DEMOTERS | {Role.AUDITOR}

ACCESS: Mapping[str, frozenset[Role]] = {
    "livez": PUBLIC,
    "readyz": PUBLIC,
    "metrics": PUBLIC,
    "docs": PUBLIC,
    "docs_asset": PUBLIC,
    "openapi": PUBLIC,
    "decide_ticket": SENDERS,
    "decide_batch": SENDERS,
    "decide_again": frozenset({Role.LEAD, Role.ML_ENGINEER, Role.ADMIN}),
    "record_outcome": SENDERS | {Role.REVIEWER, Role.LEAD},
    "get_decision": EVERYONE,
    "get_explanation": EVERYONE,
    "list_decisions": EVERYONE,
    "get_ticket": EVERYONE,
    "list_workflows": EVERYONE,
    "get_workflow": EVERYONE,
    "list_workflow_versions": EVERYONE,
    "start_training": TRAINERS,
    "cancel_training": TRAINERS,
    "list_training_runs": TRAINERS | {Role.LEAD, Role.AUDITOR, Role.APPROVER},
    "get_training_run": TRAINERS | {Role.LEAD, Role.AUDITOR, Role.APPROVER},
    "list_models": MODELLERS,
    "get_model": MODELLERS,
    "get_model_card": MODELLERS,
    "list_releases": RELEASE_READERS,
    "get_production": RELEASE_READERS,
    "list_release_history": RELEASE_READERS,
    "get_release": RELEASE_READERS,
    "start_backtest": ENGINEERS,
    "cancel_backtest": ENGINEERS,
    "list_backtests": RELEASE_READERS,
    "get_backtest": RELEASE_READERS,
    "propose_release": ENGINEERS,
    "rebase_release": ENGINEERS,
    "withdraw_release": ENGINEERS,
    "approve_release": APPROVERS,
    "promote_release": ENGINEERS,
    "rollback_production": ENGINEERS,
    "demote_production": DEMOTERS,
    "countersign_demotion": APPROVERS,
    "get_release_gates": RELEASE_READERS,
    "evaluate_gates": ENGINEERS | APPROVERS,
    "get_release_shadow": RELEASE_READERS,
    "start_shadow": ENGINEERS,
    "stop_shadow": ENGINEERS,
    "get_release_canary": RELEASE_READERS,
    "start_canary": ENGINEERS,
    "step_canary": ENGINEERS,
    "hold_canary": DEMOTERS,
    "stop_canary": DEMOTERS,
    "list_audit": frozenset({Role.AUDITOR, Role.ADMIN}),
}


class WrongRole(NotAllowed):
    """The roles do not allow this."""

    code = "role_missing"


def check_roles(needed: frozenset[Role], given: frozenset[Role], *, hint: str) -> None:
    """Raises `WrongRole` when none of the roles is given."""
    if needed.isdisjoint(given):
        names = [str(name) for name in sorted(needed)]
        raise WrongRole(f"This needs one of the roles {', '.join(names)}.", hint=hint, roles=names)
