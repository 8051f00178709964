"""The demo on a folder where something is in production already."""

from __future__ import annotations

from pathlib import Path

from tests import releases
from tests.keys import KEYRING
from tests.store_samples import NAME, WORKFLOW

from tiebreak.audit.lanes import Lane
from tiebreak.cli.demonstration.scene import AUTHOR, Scene
from tiebreak.cli.session import Session
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Knobs, RuleSet
from tiebreak.settings import Settings
from tiebreak.store.database import Database


async def test_what_is_in_production_stays_and_a_changed_folder_is_told(
    db: Database, tmp_path: Path
) -> None:
    lane = await Lane.open(db, "tests", KEYRING)
    session = Session(Settings(data_dir=tmp_path), KEYRING, db, lane, AUTHOR)
    scene = Scene(session, WORKFLOW, RuleSet())
    await scene.people_and_workflow()
    parts = PolicyParts(NAME, WORKFLOW.version, RuleSet().version)
    await releases.put(db, lane, KEYRING, parts, author=AUTHOR, approver="demo-approver")
    assert await scene.production(None, lambda _step, _share: None) == {}
    assert not await scene.is_behind()
    changed = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=0.5)})
    again = Scene(session, changed, RuleSet())
    await again.people_and_workflow()
    assert await again.production(None, lambda _step, _share: None) == {}
    assert await again.is_behind()
