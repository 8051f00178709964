"""Timed work of the audit."""

from __future__ import annotations

from tiebreak.audit import checkpoints
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database
from tiebreak.tasks.app import app
from tiebreak.tasks.site import run


@app.task(name="audit.checkpoint")
def write_checkpoint() -> str:
    """Write the signed heads of all lanes to the artifacts; the checkpoint's name."""

    async def work(db: Database, settings: Settings, keyring: Keyring) -> str:
        return await checkpoints.write(db, ArtifactStore.of(settings), keyring)

    return run(work)
