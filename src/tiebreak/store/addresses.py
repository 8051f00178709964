"""Content addresses: what is stored under one is used only when it is what the address says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from tiebreak.core.policy import PolicyParts
from tiebreak.errors import IntegrityFailure


class AlteredVersion(IntegrityFailure):
    """A stored workflow version is not what its content address says."""

    code = "altered_version"


class AlteredPolicy(IntegrityFailure):
    """A stored policy is not what its hash says."""

    code = "altered_policy"


def fitting(texts: Iterable[str], address: str, *, workflow: str) -> str:
    """The first of these texts whose SHA-256 is this address. Raises `AlteredVersion`."""
    for text in texts:
        if hashlib.sha256(text.encode()).hexdigest() == address:
            return text
    raise AlteredVersion(hint="Run `tiebreak audit verify`.", workflow=workflow, version=address)


def parts_of(row: Mapping[str, Any]) -> PolicyParts:
    """What a row of `policies` says a policy is made of. Raises `AlteredPolicy`."""
    parts = PolicyParts(**{name: row[name] for name in PolicyParts.__slots__})
    check_policy(parts, row["policy_hash"])
    return parts


def check_policy(parts: PolicyParts, policy_hash: str) -> None:
    """Raises `AlteredPolicy` unless the policy that is made of these parts has this hash."""
    if parts.hash != policy_hash:
        raise AlteredPolicy(
            hint="Run `tiebreak audit verify`.", workflow=parts.workflow, policy_hash=policy_hash
        )
