"""The journal of changes: rows of `system_audit`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson


def entry(
    actor: str, action: str, subject: str, detail: Mapping[str, object] | None = None
) -> dict[str, object]:
    """A `system_audit` row about what `actor` just did; `detail` never holds personal data."""
    return {
        "audit_id": uuid.uuid4(),
        "at": datetime.now(UTC),
        "actor": actor,
        "action": action,
        "subject": subject,
        "detail": orjson.dumps(dict(detail or {}), option=orjson.OPT_SORT_KEYS).decode(),
    }
