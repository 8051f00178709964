"""Keys and passwords of one data folder: made once, kept in files that only their owner reads."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from pathlib import Path

from tiebreak.errors import InvalidInput, NotFound

MINIMUM_KEY_BYTES = 32
FIRST_KEY_ID = "k1"
REVOKED = "bundle.revoked"  # ids of revoked keys of bundles, one a line
PASSWORDS = ("superuser", "owner", "app", "readonly", "valkey")


class SecretMissing(NotFound):
    """A key or password is missing."""

    code = "secret_missing"


class SecretExposed(InvalidInput):
    """Others than its owner may read a key or password."""

    code = "secret_exposed"


def ensure_secrets(folder: Path, *, is_new: bool) -> None:
    """Make all keys and passwords at once, or leave those that are there alone.

    With `is_new` False they must be there: new keys could not verify what the old ones sealed.
    """
    if folder.exists():
        return
    if not is_new:
        raise SecretMissing(
            f"{folder} is missing, but there is a database that was made with its secrets.",
            hint="Restore the folder from its backup; new keys cannot verify old seals.",
        )
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir(parents=True, mode=0o700)
    for kind in ("seal", "bundle"):
        write_secret(draft, f"{kind}.{FIRST_KEY_ID}.key", secrets.token_hex(MINIMUM_KEY_BYTES))
        write_secret(draft, f"{kind}.current", FIRST_KEY_ID)
    for name in ("entity.key", "sampling.key"):
        write_secret(draft, name, secrets.token_hex(MINIMUM_KEY_BYTES))
    for name in PASSWORDS:
        write_secret(draft, f"{name}.password", secrets.token_urlsafe(24))
    try:
        draft.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(draft)


def ensure_password(folder: Path, name: str) -> str:
    """The password of a role that came later than the folder; made where it is missing."""
    if not (folder / f"{name}.password").exists():
        write_secret(folder, f"{name}.password", secrets.token_urlsafe(24))
    return read_secret(folder, f"{name}.password")


def write_secret(folder: Path, name: str, value: str) -> None:
    """Write one secret so that it is there whole or not at all, and never readable by others."""
    draft = folder / f".{name}.{secrets.token_hex(4)}"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / name)


def read_secret(folder: Path, name: str) -> str:
    """One secret; raises SecretMissing or SecretExposed."""
    path = folder / name
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except FileNotFoundError as error:
        raise SecretMissing(
            f"{path} is missing.",
            hint="`tiebreak up` makes the secrets of a new data folder; "
            "restore those of an old one from its backup.",
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SecretExposed(f"{path} can be read by others.", hint=f"Run: chmod 600 '{path}'")
    return text


def read_public(folder: Path, name: str) -> str:
    """What is no secret, such as a public key; empty when it is not there."""
    try:
        return (folder / name).read_text().strip()
    except FileNotFoundError:
        return ""


def key_ids(folder: Path, kind: str, ending: str = ".key") -> list[str]:
    """The ids of the stored keys of a kind (`seal` or `bundle`) and form, sorted."""
    return sorted(
        path.name.removeprefix(f"{kind}.").removesuffix(ending)
        for path in folder.glob(f"{kind}.*{ending}")
    )
