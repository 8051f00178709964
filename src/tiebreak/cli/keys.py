"""Make, list and revoke API keys.

Keys belong to persons. A key's secret is shown once, when it is made; only its hash is stored.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

import typer

from tiebreak.access import keys
from tiebreak.access.keys import Key, Token
from tiebreak.access.roles import Role
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.reasons import stated
from tiebreak.cli.session import PersonOption, Session, act, look

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Make, list and revoke API keys."""


@app.command()
def create(
    person: Annotated[str, typer.Option(help="Who owns the key; a short handle such as ann.lee.")],
    role: Annotated[list[Role], typer.Option(help="A role of the key; may be given again.")],
    expires_days: Annotated[
        float | None, typer.Option(min=0.001, max=36_500, help="Days until the key expires.")
    ] = None,
    by: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key and show it, this once.

    Example: `tiebreak keys create --person ann --role service`
    """
    expires_at = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)

    async def work(session: Session) -> Token:
        return await keys.create_key(
            session.lane,
            person=person,
            roles=frozenset(role),
            actor=session.person,
            expires_at=expires_at,
        )

    token = act(by, work)
    output = Output(as_json=json)
    output.note("Keep this key safe; it cannot be shown again.")
    told = {
        "key": str(token),
        "key_id": token.key_id,
        "person": person,
        "roles": sorted(role),
        "expires_at": expires_at,
    }
    output.result(told, str(token))


@app.command(name="list")
def list_(json: JsonOption = False) -> None:
    """List all keys, oldest first.

    Example: `tiebreak keys list`
    """

    now = datetime.now(UTC)
    found = [_told(key, now) for key in look(lambda session: keys.list_keys(session.db))]
    columns = ("key_id", "person", "roles", "state", "created_at", "expires_at")
    rows = [[_shown(item[column]) for column in columns] for item in found]
    Output(as_json=json).result({"keys": found}, table("API keys", columns, rows))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    reason: Annotated[
        str, typer.Option(help="Why; it goes into the audit journal.", callback=stated)
    ],
    by: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a key for ever; running servers refuse it within five seconds.

    Example: `tiebreak keys revoke 0a1b2c3d4e5f --reason "laptop lost"`
    """

    async def work(session: Session) -> bool:
        return await keys.revoke_key(
            session.lane, session.db, key_id, actor=session.person, reason=reason
        )

    is_new = act(by, work)
    text = f"Revoked {key_id}." if is_new else f"{key_id} was revoked before."
    Output(as_json=json).result({"key_id": key_id, "revoked_now": is_new}, text)


def _told(key: Key, now: datetime) -> dict[str, Any]:
    state = "revoked" if key.revoked_at else "live" if key.is_live(now) else "expired"
    return {
        "key_id": key.key_id,
        "person": key.person,
        "roles": sorted(key.roles),
        "state": state,
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return ", ".join(cast("list[str]", value)) if isinstance(value, list) else str(value or "")
