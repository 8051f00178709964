"""The rows that the backtest's benchmark repeats, and the policy that decides them."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.stage import Stage
from tiebreak.cli.session import opened
from tiebreak.core.policy import Policy
from tiebreak.embedded.stack import Services, stack
from tiebreak.registry import records
from tiebreak.settings import Settings

Row = dict[str, Any]


def policy_and_rows(staged: Stage, count: int) -> tuple[Policy, list[Row]]:
    """The policy in production and the newest rows of `tickets`, as the store holds them."""
    with stack(Settings(data_dir=staged.data_dir)) as services:
        return asyncio.run(_read(services, staged.workflow, count))


async def _read(services: Services, workflow: str, count: int) -> tuple[Policy, list[Row]]:
    async with opened(services, "") as session:
        release = (await records.current(session.db, session.keyring))[workflow]
        assert isinstance(release, records.ReleaseRecord)
        loaded = await session.library().get(release.policy_hash)
        assert loaded.policy.model is not None
        async with session.db.connection() as conn:
            rows = await conn.fetch(_ROWS, workflow, count)
    return loaded.policy, [dict(row) for row in rows]


_ROWS = """
    SELECT ticket_id, revision, as_of, ticket_hash, content, context FROM tickets
    WHERE workflow = $1 ORDER BY as_of DESC LIMIT $2
"""
