"""Put a workflow's first policy into production, by rules alone or with a model nobody gated."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.cli.output import JsonOption, Output, short, table
from tiebreak.cli.reasons import stated
from tiebreak.cli.session import MOST, PersonOption, Session, act, require_role
from tiebreak.errors import Conflict
from tiebreak.registry import records
from tiebreak.registry.proposals import Proposal, find_digest, propose
from tiebreak.registry.records import ReleaseRecord

NO_MODEL = "none"


class FirstModelNotGated(Conflict):
    """A workflow's first model passes its gates beside the rules alone."""

    code = "first_model_not_gated"


def command(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    approved_by: Annotated[str, typer.Option(help="Another person, who approves it.")],
    reason: Annotated[
        str, typer.Option(help="Why; it stands on the release record.", callback=stated)
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Digest of a model bundle, or its first digits; `none` for rules alone; "
            "default: the newest candidate."
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST,
            help="Version of the workflow; default: the newest that was loaded.",
        ),
    ] = None,
    without_gates: Annotated[
        bool,
        typer.Option(
            "--without-gates", help="Install a model that was never gated, such as in a demo."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Only show what would change.")] = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Put a workflow's first policy into production; servers follow within a second.

    Begin with rules alone (--model none), and let the first model pass its gates beside them: a
    workflow that has a policy in production is changed by a release. --without-gates is for empty
    systems, and it stays on record.

    Example: `tiebreak release install locate --model none --approved-by ann --reason "first rules"`
    """

    async def work(session: Session) -> tuple[Proposal, ReleaseRecord | None]:
        await require_role(session.db, approved_by, "approve_release")
        digest = _digest(session.artifacts, workflow, model)
        proposal = await propose(
            session.db,
            session.library(),
            session.keyring,
            workflow,
            ordinal=version,
            digest=digest,
        )
        if dry_run:
            return proposal, None
        if digest is not None and proposal.in_production is None and not without_gates:
            raise FirstModelNotGated(
                hint=f"Install the rules alone (`--model none`), then `tiebreak release propose "
                f"{workflow} --bundle {digest[:12]} --reason WHY`. On an empty system, such as a "
                "demo, `--without-gates` installs it untried.",
                workflow=workflow,
            )
        release = await records.install(
            session.lane,
            session.keyring,
            proposal.parts,
            author=session.person,
            approver=approved_by,
            reason=reason,
        )
        if digest is not None:
            session.artifacts.set_alias(workflow, "risk_model_latest", digest)
        return proposal, release

    _tell(Output(as_json=json), *act(person, work, needs="promote_release"))


def _digest(artifacts: ArtifactStore, workflow: str, model: str | None) -> str | None:
    if model == NO_MODEL:
        return None
    start = model or artifacts.read_alias(workflow, "risk_model_candidate")
    return None if start is None else find_digest(artifacts, start)


def _tell(output: Output, proposal: Proposal, release: ReleaseRecord | None) -> None:
    changes = [
        (change.part, short(change.before), short(change.after)) for change in proposal.changes
    ]
    told = {
        "workflow": proposal.parts.workflow,
        "version": proposal.ordinal,
        "policy_hash": proposal.parts.hash,
        "installed": release is not None,
        "release": None if release is None else asdict(release),
        "changes": [asdict(change) for change in proposal.changes],
    }
    title = "Installed" if release is not None else "Would install"
    heading = f"{title} {proposal.parts.workflow} version {proposal.ordinal}"
    output.result(told, table(heading, ("part", "before", "after"), changes))
    if proposal.parts.bundle_digest is None:
        output.note("Rules decide alone: no model is installed.")
    elif release is not None:
        output.note("This model passed no gates; `tiebreak release status` says so.")
