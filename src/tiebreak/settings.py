"""The one reader of the environment: frozen settings in sections, and the keyring.

Every setting is `TIEBREAK_<SECTION>__<NAME>`; the addresses of the servers also go by the names
that platforms give them: DATABASE_URL, DATABASE_OWNER_URL, REDIS_URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from tiebreak.errors import InvalidInput, Problem
from tiebreak.secret_files import (
    MINIMUM_KEY_BYTES,
    REVOKED,
    key_ids,
    read_public,
    read_secret,
)

MOST_WORKERS_BY_DEFAULT = 4
NO_KEY = "none"
PLATFORM_NAMES = {
    "DATABASE_URL": ("database", "url"),
    "DATABASE_OWNER_URL": ("database", "owner_url"),
    "REDIS_URL": ("redis", "url"),
}


_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/?")


class SettingsInvalid(InvalidInput):
    """Some settings are not valid."""

    code = "settings_invalid"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DatabaseSettings(_Section):
    """Where Postgres is. Without addresses, `tiebreak up` starts one of its own."""

    url: SecretStr | None = None
    """Address for the app role, `postgresql://…`; also DATABASE_URL."""
    owner_url: SecretStr | None = None
    """Address for the owner role, for migrations only; also DATABASE_OWNER_URL."""
    readonly_url: SecretStr | None = None
    """Address for the read-only role, by which training reads; without it the app role's."""
    pool_size: Annotated[int, Field(ge=2, le=200)] = 10
    """Most connections of one process, in each of its two pools."""


class RedisSettings(_Section):
    """Where the task queue is. Without an address, `tiebreak up` starts a Valkey of its own."""

    url: SecretStr | None = None
    """Address of a Redis or Valkey database, `redis://…`; also REDIS_URL."""


class ArtifactSettings(_Section):
    """Where model bundles and audit checkpoints are; without an address, in the data folder."""

    url: str | None = None
    """Address of an S3 bucket, `s3://bucket/prefix`; credentials come from the AWS chain."""
    endpoint_url: str | None = None
    """Address of an S3 server other than AWS's own, `https://…`."""
    kms_key_id: Annotated[str, Field(min_length=1)] | None = None
    """KMS key that encrypts each object; without one the bucket's default encryption does."""
    cache_bytes: Annotated[int, Field(ge=1)] = 2 << 30
    """Most bytes of bundles read from the bucket that are kept in the data folder."""

    @field_validator("url")
    @classmethod
    def _is_bucket(cls, url: str | None) -> str | None:
        if url is not None and not _BUCKET.fullmatch(url):
            raise ValueError("Write s3://bucket or s3://bucket/prefix, and nothing else.")
        return url

    @field_validator("endpoint_url")
    @classmethod
    def _is_endpoint(cls, url: str | None) -> str | None:
        if url is not None and not _ENDPOINT.fullmatch(url):
            raise ValueError("Write http(s)://host:port; credentials do not belong here.")
        return url

    @property
    def place(self) -> tuple[str, str]:
        """The bucket, and the prefix in it without slashes at its ends."""
        assert self.url is not None
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        return bucket, prefix.rstrip("/")


class ApiSettings(_Section):
    """The HTTP API."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that serve; 0 is one a usable core, at most 4."""
    queue_size: Annotated[int, Field(ge=1)] = 1024
    """Tickets that may wait in one process before it answers 503."""
    batch_max: Annotated[int, Field(ge=1, le=1024)] = 256
    """Most tickets in one micro-batch."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    """Largest body of one ticket, and largest line of many."""
    decide_timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Longest wait for a decision."""
    drain_seconds: Annotated[float, Field(gt=0)] = 20.0
    """Longest wait for open requests at shutdown."""

    @property
    def worker_count(self) -> int:
        """How many processes serve."""
        return self.workers or min(MOST_WORKERS_BY_DEFAULT, len(os.sched_getaffinity(0)))


class TrainingSettings(_Section):
    """What one training run may take; it is ended where it takes more."""

    memory_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    """Most memory."""
    cpu_seconds: Annotated[int, Field(ge=1)] = 8 * 3600
    """Most processor time, of all its threads."""
    wall_seconds: Annotated[float, Field(gt=0)] = 8 * 3600
    """Most time by the clock."""


class BacktestSettings(_Section):
    """What one backtest that was asked for over HTTP may take; it is ended where it takes more."""

    processes: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that decide its tickets; a command takes as many as `--jobs` says."""
    memory_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    """Most memory of each process."""
    wall_seconds: Annotated[float, Field(gt=0)] = 8 * 3600
    """Most time by the clock."""


class MlflowSettings(_Section):
    """Where training runs are told of in MLflow; needs the extra `mlflow`."""

    tracking_uri: SecretStr | None = None
    """Address of a tracking server or database; without it a database of our own Postgres."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for it; a run does not fail when it is away."""


class ShadowSettings(_Section):
    """Candidates in shadow, each in a process of its own."""

    batch_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Longest time to decide a batch; a candidate that takes longer is quarantined."""
    memory_mib: Annotated[int, Field(ge=256)] = 2048
    """Most memory of a candidate's process."""


class LogSettings(_Section):
    """Logs, which carry decision ids and never personal data."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""


class KmsKey(_Section):
    """A key in AWS KMS; credentials come from where AWS's own library looks for them."""

    key: str
    """Its id, ARN or alias."""
    usage: Literal["mac", "sign"]
    """`mac`: an HMAC_256 key. `sign`: an ECC_NIST_P256 key."""
    region: str | None = None
    """Its region; default: where AWS's own library looks for it."""
    endpoint: str | None = None
    """Another address of KMS."""
    public_key: str | None = None
    """Of a key that signs, DER in hexadecimal; default: fetched from KMS."""
    verify_only: bool = False
    """Of a key that signs: this installation does not."""


class KeySettings(_Section):
    """Keys from the environment, in hexadecimal; those not given are read from files."""

    seal: dict[str, SecretStr] | None = None
    """Keys of audit seals and release records by id, as JSON."""
    seal_key_id: str | None = None
    """The id of the key that seals."""
    bundle: dict[str, SecretStr] | None = None
    """Secret keys (HMAC) of model bundles by id, as JSON; two of all kinds during a rotation."""
    bundle_public: dict[str, str] | None = None
    """Public keys (Ed25519) of model bundles by id, as JSON."""
    bundle_private: dict[str, SecretStr] | None = None
    """Private keys (Ed25519) of model bundles by id, as JSON; servers need none."""
    bundle_kms: dict[str, KmsKey] | None = None
    """Keys of model bundles in AWS KMS by id, as JSON."""
    bundle_signing_key_id: str | None = None
    """The id of the key that signs bundles; `none` for an installation that only verifies."""
    bundle_revoked: frozenset[str] | None = None
    """Ids of revoked keys, as JSON: what they signed does not load."""
    entity: SecretStr | None = None
    """Key that turns entities of the history into opaque values."""
    sampling: SecretStr | None = None
    """Key that chooses the audit sample and canaries by ticket."""


class _PlatformNames(PydanticBaseSettingsSource):
    """Reads the variables that platforms give without our prefix."""

    def get_field_value(
        self,
        field: Any,  # noqa: ARG002
        field_name: str,
    ) -> tuple[Any, str, bool]:
        """Not used: the values come all at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The sections that these variables fill."""
        found: dict[str, Any] = {}
        for name, (section, setting) in PLATFORM_NAMES.items():
            if value := os.environ.get(name):
                found.setdefault(section, {})[setting] = value
        return found


class Settings(BaseSettings):
    """All settings, frozen."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="TIEBREAK_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Path(".tiebreak")
    """Folder of everything that Tiebreak keeps outside Postgres."""
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    api: ApiSettings = ApiSettings()
    training: TrainingSettings = TrainingSettings()
    backtest: BacktestSettings = BacktestSettings()
    mlflow: MlflowSettings = MlflowSettings()
    shadow: ShadowSettings = ShadowSettings()
    log: LogSettings = LogSettings()
    keys: KeySettings = KeySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over platform names, which win over our own names."""
        return init_settings, _PlatformNames(settings_cls), env_settings

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment; raises SettingsInvalid that names every wrong variable at once."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            problems = tuple(
                Problem(variable(*map(str, mistake["loc"])), mistake["type"], mistake["msg"])
                for mistake in error.errors(include_url=False, include_input=False)
            )
            raise SettingsInvalid(
                hint="Change these variables; `tiebreak config check` shows all settings.",
                problems=problems,
            ) from None

    @property
    def artifacts_dir(self) -> Path:
        """Folder of model bundles and audit checkpoints that are not in a bucket."""
        return self.data_dir / "artifacts"

    @property
    def bundle_cache_dir(self) -> Path:
        """Folder of copies of bundles that are in a bucket."""
        return self.data_dir / "cache" / "bundles"

    @property
    def secrets_dir(self) -> Path:
        """Folder of key files and passwords, readable by its owner only."""
        return self.data_dir / "secrets"

    def redacted(self) -> dict[str, Any]:
        """The settings as plain data, secrets masked."""
        return self.model_dump(mode="json")


def variable(*location: str) -> str:
    """The environment variable of a setting, such as `TIEBREAK_API__PORT`."""
    return "TIEBREAK_" + "__".join(location).upper()


class KeyUnfit(InvalidInput):
    """A key cannot be used."""

    code = "key_unfit"


@dataclass(frozen=True)
class Keyring:
    """All keys of one installation; none of them is ever in the database."""

    seal_key_id: str
    seal_keys: Mapping[str, bytes]
    bundle_signing_key_id: str | None  # None: bundles are verified and cannot be signed
    bundle_keys: Mapping[str, bytes]  # of HMAC
    entity_key: bytes
    sampling_key: bytes
    bundle_public_keys: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    bundle_private_keys: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    bundle_kms_keys: Mapping[str, KmsKey] = field(default_factory=dict[str, KmsKey])
    bundle_revoked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.seal_key_id not in self.seal_keys:
            raise KeyUnfit(f"There is no seal key with the id {self.seal_key_id!r}.")
        for kind, keys in (("seal", self.seal_keys), ("bundle", self.bundle_keys)):
            for key_id, key in keys.items():
                _check(f"{kind} key {key_id!r}", key)
        bundle_key_ids = [*self.bundle_keys, *self.bundle_public_keys, *self.bundle_kms_keys]
        if len(set(bundle_key_ids)) < len(bundle_key_ids):
            raise KeyUnfit(
                f"Two bundle keys have the same id: {', '.join(sorted(bundle_key_ids))}.",
                hint="Give each key an id of its own, whatever its kind.",
            )
        alone = sorted(self.bundle_private_keys.keys() - self.bundle_public_keys.keys())
        if alone:
            raise KeyUnfit(f"The public key of {', '.join(alone)} is missing.")
        if self.bundle_signing_key_id not in (None, *bundle_key_ids):
            raise KeyUnfit(f"There is no bundle key with the id {self.bundle_signing_key_id!r}.")
        _check("entity key", self.entity_key)
        _check("sampling key", self.sampling_key)

    @classmethod
    def load(cls, settings: Settings) -> Keyring:
        """The keys of the environment, and those of `secrets_dir` for what it does not give.

        Raises SecretMissing, SecretExposed or KeyUnfit.
        """
        folder, given = settings.secrets_dir, settings.keys
        signing = given.bundle_signing_key_id or read_secret(folder, "bundle.current")
        private = _keys(folder, "bundle", given.bundle_private, ".private")
        return cls(
            seal_key_id=given.seal_key_id or read_secret(folder, "seal.current"),
            seal_keys=_keys(folder, "seal", given.seal),
            bundle_signing_key_id=None if signing == NO_KEY else signing,
            bundle_keys=_keys(folder, "bundle", given.bundle),
            entity_key=_key(folder, "entity", given.entity),
            sampling_key=_key(folder, "sampling", given.sampling),
            bundle_public_keys=_public_keys(folder, given.bundle_public),
            bundle_private_keys=private,
            bundle_kms_keys=given.bundle_kms or {},
            bundle_revoked=frozenset(
                read_public(folder, REVOKED).split()
                if given.bundle_revoked is None
                else given.bundle_revoked
            ),
        )

    def __repr__(self) -> str:
        return f"Keyring(seal={list(self.seal_keys)}, bundle={list(self.bundle_keys)})"


def _keys(
    folder: Path, kind: str, given: dict[str, SecretStr] | None, ending: str = ".key"
) -> dict[str, bytes]:
    if given is None:
        given = {
            key_id: SecretStr(read_secret(folder, f"{kind}.{key_id}{ending}"))
            for key_id in key_ids(folder, kind, ending)
        }
    return {key_id: _decoded(f"{kind} key {key_id!r}", key) for key_id, key in given.items()}


def _public_keys(folder: Path, given: dict[str, str] | None) -> dict[str, bytes]:
    if given is None:
        given = {
            key_id: read_public(folder, f"bundle.{key_id}.public")
            for key_id in key_ids(folder, "bundle", ".public")
        }
    return {
        key_id: _decoded(f"public key {key_id!r}", SecretStr(key)) for key_id, key in given.items()
    }


def _key(folder: Path, name: str, given: SecretStr | None) -> bytes:
    return _decoded(f"{name} key", given or SecretStr(read_secret(folder, f"{name}.key")))


def _decoded(what: str, key: SecretStr) -> bytes:
    try:
        return bytes.fromhex(key.get_secret_value())
    except ValueError:
        raise KeyUnfit(f"The {what} is not hexadecimal.") from None


def _check(what: str, key: bytes) -> None:
    if len(key) < MINIMUM_KEY_BYTES:
        raise KeyUnfit(
            f"The {what} has {len(key)} bytes, fewer than {MINIMUM_KEY_BYTES}.",
            hint=f"Make one with: openssl rand -hex {MINIMUM_KEY_BYTES}",
        )
