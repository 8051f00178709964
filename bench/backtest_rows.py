"""The rows that the backtest's benchmark repeats, and the policies that decide them."""

from __future__ import annotations

import asyncio
from typing import Any

from bench import snapshots
from bench.stage import DEPTH, SLOW, TREES, Stage
from tiebreak.cli.session import opened
from tiebreak.core.model import Model
from tiebreak.core.policy import Policy
from tiebreak.core.workflow import RowFeature
from tiebreak.embedded.stack import Services, stack
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.registry import records
from tiebreak.settings import Settings
from tiebreak.training.fit import Parameters
from tiebreak.training.train import train

Row = dict[str, Any]
TEXT = RowFeature(name="remarks_words", sql="remarks", kind="text")


def policy_and_rows(staged: Stage, count: int) -> tuple[Policy, list[Row]]:
    """The policy in production and the newest rows of `tickets`, as the store holds them."""
    with stack(Settings(data_dir=staged.data_dir)) as services:
        return asyncio.run(_read(services, staged.workflow, count))


def with_text(policy: Policy, parts: dict[str, bytes]) -> Policy:
    """The policy with a feature of the words of `remarks`, and a model that was trained with it."""
    features = (*policy.workflow.features, TEXT)
    workflow = policy.workflow.model_copy(update={"features": features})
    return Policy.build(workflow, policy.rules, model=Model.load(parts, digest="bench"))


def trained_with_text(staged: Stage) -> dict[str, bytes]:
    """The parts of a model of as many trees as the one in production, with one text feature."""
    policy, _ = policy_and_rows(staged, 1)
    workflow = policy.workflow.model_copy(update={"features": (*policy.workflow.features, TEXT)})
    snapshot, valid_from = snapshots.read(staged, workflow, policy.rules)
    parameters = Parameters(
        valid_from=valid_from, rounds=TREES, max_depth=DEPTH, learning_rate=SLOW
    )
    result = train(snapshot, parameters, lambda _s, _x: None, fingerprint=engine_fingerprint().hash)
    if result.manifest["trees"] != TREES:
        raise RuntimeError(f"the model has {result.manifest['trees']} trees")
    return result.parts


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
