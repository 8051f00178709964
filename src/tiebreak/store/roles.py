"""The three database roles: owner migrates, app appends, readonly reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from tiebreak.errors import InvalidInput, Problem

OWNER: Final = "tiebreak_owner"
APP: Final = "tiebreak_app"
READONLY: Final = "tiebreak_readonly"
ROLES: Final = (OWNER, APP, READONLY)
MLFLOW: Final = "tiebreak_mlflow"  # a role of its own and the database that it owns


class UnsafeRole(InvalidInput):
    """The application's database role may do more than append."""

    code = "unsafe_role"


async def ensure_roles(admin: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    """Create the three roles where they are missing and set their passwords.

    `admin` is connected as a superuser or as a role that may create roles.
    """
    for role in ROLES:
        await _ensure_login(admin, role, passwords[role])


async def ensure_mlflow(admin: asyncpg.Connection, password: str) -> None:
    """Create MLflow's role and database, which no other role but the superuser can enter."""
    await _ensure_login(admin, MLFLOW, password)
    if await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", MLFLOW):
        return
    await admin.execute(f"CREATE DATABASE {MLFLOW} OWNER {MLFLOW}")
    await admin.execute(f"REVOKE ALL ON DATABASE {MLFLOW} FROM PUBLIC")


async def _ensure_login(admin: asyncpg.Connection, role: str, password: str) -> None:
    statement = await admin.fetchval(
        """
        SELECT format(
            CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = $1)
                 THEN 'ALTER ROLE %I LOGIN PASSWORD %L' ELSE 'CREATE ROLE %I LOGIN PASSWORD %L'
            END, $1, $2::text)
        """,
        role,
        password,
    )
    await admin.execute(statement)


async def ensure_database(admin: asyncpg.Connection, name: str) -> bool:
    """Create the database, owned by the owner role and closed to others; True when it is new."""
    if await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
        return False
    quoted = await admin.fetchval("SELECT quote_ident($1)", name)
    await admin.execute(f"CREATE DATABASE {quoted} OWNER {OWNER}")
    await admin.execute(f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC")
    await admin.execute(f"GRANT CONNECT ON DATABASE {quoted} TO {APP}, {READONLY}")
    return True


async def ensure_groups(owner: asyncpg.Connection) -> None:
    """Create the app and readonly roles as groups without login where they are missing.

    On a server that is not ours, the administrator makes the users of DATABASE_URL their members.
    Raises InvalidInput with the statements to run when the owner may not create roles.
    """
    for role in (APP, READONLY):
        if await owner.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
            continue
        try:
            await owner.execute(f"CREATE ROLE {role} NOLOGIN")
        except asyncpg.InsufficientPrivilegeError as error:
            raise InvalidInput(
                f"The database role {role} is missing and the owner may not create it.",
                hint=f"Run as an administrator: CREATE ROLE {role} LOGIN PASSWORD '…';",
            ) from error


async def check_app(app: asyncpg.Connection) -> None:
    """Refuse an app connection that is not the app role's or may change what is append-only.

    Raises UnsafeRole with every reason at once.
    """
    row = await app.fetchrow(
        """
        SELECT current_user AS name, rolsuper,
               pg_has_role(current_user, $1, 'USAGE') AS is_app,
               pg_has_role(current_user, relowner, 'USAGE') AS is_owner,
               has_table_privilege('decisions', 'UPDATE, DELETE, TRUNCATE') AS may_change
        FROM pg_roles, pg_class
        WHERE rolname = current_user AND pg_class.oid = 'decisions'::regclass
        """,
        APP,
    )
    assert row is not None
    faults = {
        "is a superuser": row["rolsuper"],
        f"is not a member of {APP}": not row["is_app"],
        "owns the tables": row["is_owner"],
        "may update, delete or truncate decisions": row["may_change"],
    }
    problems = tuple(
        Problem("DATABASE_URL", "unsafe_role", f"The role {row['name']} {fault}.")
        for fault, is_true in faults.items()
        if is_true
    )
    if problems:
        raise UnsafeRole(hint=f"Use the role {APP} or a member of it.", problems=problems)
