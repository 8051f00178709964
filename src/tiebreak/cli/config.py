"""Look at the settings."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from pydantic import BaseModel

from tiebreak.bundles.artifacts import ArtifactStore, S3Missing
from tiebreak.bundles.signing import BundleKeys
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.errors import Problem, TiebreakError
from tiebreak.settings import (
    PLATFORM_NAMES,
    Keyring,
    Settings,
    SettingsInvalid,
    variable,
)

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Look at the settings."""


@app.command()
def check(json: JsonOption = False) -> None:
    """Print all settings, secrets masked, and say what is wrong with them and with the bucket.

    Example: `TIEBREAK_API__PORT=9000 tiebreak config check`
    """
    settings = Settings.load()
    rows = list(_rows(settings.redacted(), Settings))
    problems = [*unknown_variables(os.environ), *contradictions(settings)]
    if problems:
        raise SettingsInvalid(hint="Change or remove these.", problems=tuple(problems))
    keys = bundle_keys(settings)
    shown = [tuple(key.values()) for key in keys]
    output = Output(as_json=json)
    output.result(
        {**settings.redacted(), "bundle_keys": keys},
        table("Settings", ("variable", "value", "meaning"), rows),
        *([table("Keys of model bundles", tuple(keys[0]), shown)] if keys else []),
    )
    if keys and not any(key["signs"] for key in keys):
        output.note("This installation verifies model bundles and cannot sign them.")


def bundle_keys(settings: Settings) -> list[dict[str, Any]]:
    """What this installation can do with each key of model bundles; none before the first start."""
    if not _has_keys(settings):
        return []
    keys = BundleKeys.of(Keyring.load(settings))
    return [
        {
            "key_id": key_id,
            "algorithm": keys.key(key_id).algorithm.name.lower().replace("_", "-"),
            "verifies": key_id not in keys.revoked,
            "signs": key_id == keys.signing,
        }
        for key_id in keys.active
    ]


def _has_keys(settings: Settings) -> bool:
    return settings.secrets_dir.exists() or settings.keys.seal is not None


def unknown_variables(environment: Mapping[str, str]) -> Iterator[Problem]:
    """Variables that look like ours but are no setting; a misspelt one would do nothing."""
    known = [name for name, _, _ in _rows(Settings.load().redacted(), Settings)]
    for name in sorted(environment):
        if not name.startswith("TIEBREAK_") or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else "Remove it."
        yield Problem(name, "unknown_variable", "There is no such setting.", hint)


def contradictions(settings: Settings) -> Iterator[Problem]:
    """Settings that are each valid but do not go together, and what they name but does not work."""
    database = settings.database
    if database.url and not database.owner_url:
        yield Problem(
            "DATABASE_OWNER_URL",
            "missing",
            "DATABASE_URL is set, but migrations need the owner's address too.",
            "Set it to the same database with the owner role.",
        )
    if database.owner_url and not database.url:
        yield Problem(
            "DATABASE_URL",
            "missing",
            "DATABASE_OWNER_URL is set, but not the application's own address.",
            "Set it to the same database with the app role.",
        )
    if settings.artifacts.url is not None:
        try:
            yield from ArtifactStore.of(settings).examine()
        except S3Missing as error:
            yield Problem("TIEBREAK_ARTIFACTS__URL", error.code, error.message, error.hint)
    if _has_keys(settings):
        try:
            BundleKeys.of(Keyring.load(settings))
        except TiebreakError as error:
            yield Problem("keys", error.code, error.message, error.hint)


def _rows(
    values: Mapping[str, Any], model: type[BaseModel], *path: str
) -> Iterator[tuple[str, str, str]]:
    """Variable, value and meaning of each setting, sections flattened."""
    platform = {location: name for name, location in PLATFORM_NAMES.items()}
    for name, field in model.model_fields.items():
        here = (*path, name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _rows(values[name], kind, *here)
            continue
        value = "" if values[name] is None else str(values[name])
        meaning = field.description or ""
        yield variable(*here), value, meaning
        if here in platform and here[1:]:
            yield platform[here[0], here[1]], value, f"The same as {variable(*here)}."
