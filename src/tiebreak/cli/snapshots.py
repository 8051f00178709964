"""List, check or remove the data sets that models were trained on."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import Session, look
from tiebreak.settings import Settings
from tiebreak.training import kept_snapshots

app = typer.Typer()

HashArgument = Annotated[
    str, typer.Argument(metavar="HASH", help="Its hash, or the first digits of it.")
]


@app.callback()
def _group() -> None:
    """List, check or remove the data sets that models were trained on."""


@app.command(name="list")
def list_(json: JsonOption = False) -> None:
    """List kept snapshots, the newest knowledge first.

    Example: `tiebreak snapshots list`
    """
    artifacts = ArtifactStore.of(Settings.load())
    found = [
        _told(kept_snapshots.manifest_of(artifacts, each)) for each in artifacts.list_snapshots()
    ]
    found.sort(key=lambda each: (each["known_by"], each["hash"]), reverse=True)
    rows = [
        (
            each["hash"][:12],
            each["workflow"],
            each["workflow_version"][:12],
            each["known_by"][:16],
            f"{each['rows']:,}",
            f"{each['positives']:,}",
        )
        for each in found
    ]
    columns = ("snapshot", "workflow", "version", "known by", "rows", "bad ends")
    Output(as_json=json).result({"snapshots": found}, table("Snapshots", columns, rows))


@app.command()
def check(snapshot: HashArgument, json: JsonOption = False) -> None:
    """Read a snapshot's file against its hash, and make it again from its manifest.

    Example: `tiebreak snapshots check 3fa2`
    """

    async def work(session: Session) -> dict[str, Any]:
        from tiebreak.training.snapshot import read_again  # slow to import

        digest = kept_snapshots.resolve(session.artifacts, snapshot)
        kept = kept_snapshots.load(session.artifacts, digest)
        manifest = kept_snapshots.manifest_of(session.artifacts, digest)
        again = await read_again(session.db, manifest, entity_secret=session.keyring.entity_key)
        return {
            "hash": digest,
            "made_again": again.data_hash,
            "is_same": again.data_hash == digest,
            "rows": kept.frame.height,
            "rows_again": again.frame.height,
            "code_version": manifest["code_version"],
            "code_version_again": version("tiebreak"),
        }

    told = look(work)
    said = (
        "It is whole, and made again it is the same."
        if told["is_same"]
        else "It is whole, but made again it differs: tickets were erased since, or something of "
        f"before then was imported ({told['rows']:,} rows, {told['rows_again']:,} again)."
    )
    output = Output(as_json=json)
    output.result(told, said)
    if told["code_version"] != told["code_version_again"]:
        output.note(
            f"It was made by Tiebreak {told['code_version']} and again by "
            f"{told['code_version_again']}, which may read otherwise."
        )


@app.command()
def remove(snapshot: HashArgument, json: JsonOption = False) -> None:
    """Remove a kept snapshot; models trained on it stay.

    Example: `tiebreak snapshots remove 3fa2`
    """
    artifacts = ArtifactStore.of(Settings.load())
    digest = kept_snapshots.resolve(artifacts, snapshot)
    artifacts.delete_snapshot(digest)
    Output(as_json=json).result({"removed": digest}, f"Removed {digest[:12]}.")


def _told(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name != "configuration"}
