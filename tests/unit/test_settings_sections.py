"""Settings come from the environment, say what is wrong, and never show a secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from tiebreak.fingerprint import engine_fingerprint
from tiebreak.secret_files import SecretExposed, SecretMissing, ensure_secrets, write_secret
from tiebreak.settings import Keyring, KeyUnfit, Settings, SettingsInvalid

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("TIEBREAK_", "DATABASE_", "REDIS_")):
            monkeypatch.delenv(name)


def test_sections_are_read_from_nested_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEBREAK_API__PORT", "9001")
    monkeypatch.setenv("TIEBREAK_DATA_DIR", "/some where")
    settings = Settings.load()
    assert settings.api.port == 9001
    assert settings.artifacts_dir == Path("/some where/artifacts")


def test_platform_names_win_over_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEBREAK_DATABASE__URL", "postgresql://ours")
    monkeypatch.setenv("TIEBREAK_DATABASE__POOL_SIZE", "7")
    monkeypatch.setenv("DATABASE_URL", "postgresql://platform")
    database = Settings.load().database
    assert database.url == SecretStr("postgresql://platform")
    assert database.pool_size == 7


def test_all_wrong_variables_are_named_at_once_without_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIEBREAK_API__PORT", "hidden-value")
    monkeypatch.setenv("TIEBREAK_LOG__LEVEL", "hidden-value")
    monkeypatch.setenv("TIEBREAK_API__PROT", "hidden-value")
    with pytest.raises(SettingsInvalid) as caught:
        Settings.load()
    assert {problem.where for problem in caught.value.problems} == {
        "TIEBREAK_API__PORT",
        "TIEBREAK_LOG__LEVEL",
        "TIEBREAK_API__PROT",
    }
    assert "hidden-value" not in str(caught.value) + repr(caught.value.problems)


def test_settings_are_frozen() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.api.port = 1  # type: ignore[misc]


def test_redacted_settings_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:SECRET@host/db")
    monkeypatch.setenv("TIEBREAK_KEYS__ENTITY", "SECRET")
    settings = Settings.load()
    assert "SECRET" not in str(settings.redacted()) + repr(settings)


def test_every_setting_has_a_docstring() -> None:
    for section in [Settings, *(f.annotation for f in Settings.model_fields.values())]:
        for name, field in getattr(section, "model_fields", {}).items():
            is_section = hasattr(field.annotation, "model_fields")
            assert is_section or field.description, f"{section}.{name}"


def test_secrets_are_private_complete_and_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    ensure_secrets(folder, is_new=True)
    keyring = Keyring.load(Settings.load(data_dir=tmp_path))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    ensure_secrets(folder, is_new=True)
    assert Keyring.load(Settings.load(data_dir=tmp_path)) == keyring
    assert keyring.seal_keys["k1"].hex() not in repr(keyring)
    assert [path.name for path in tmp_path.iterdir()] == ["secrets"]


def test_secrets_of_a_used_database_are_never_made_anew(tmp_path: Path) -> None:
    with pytest.raises(SecretMissing, match="backup"):
        ensure_secrets(tmp_path / "secrets", is_new=False)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ensure_secrets(tmp_path / "secrets", is_new=True)
    (tmp_path / "secrets" / "entity.key").chmod(0o640)
    with pytest.raises(SecretExposed, match="chmod 600"):
        Keyring.load(Settings.load(data_dir=tmp_path))


def test_missing_keys_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SecretMissing, match="tiebreak up"):
        Keyring.load(Settings.load(data_dir=tmp_path))


def test_a_second_key_is_loaded_for_rotation(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    ensure_secrets(folder, is_new=True)
    write_secret(folder, "bundle.k2.key", KEY)
    write_secret(folder, "bundle.current", "k2")
    keyring = Keyring.load(Settings.load(data_dir=tmp_path))
    assert (keyring.bundle_signing_key_id, sorted(keyring.bundle_keys)) == ("k2", ["k1", "k2"])


def test_keys_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SEAL": f'{{"a": "{KEY}"}}',
        "SEAL_KEY_ID": "a",
        "BUNDLE": f'{{"b": "{KEY}"}}',
        "BUNDLE_SIGNING_KEY_ID": "b",
        "ENTITY": KEY,
        "SAMPLING": KEY,
    }.items():
        monkeypatch.setenv(f"TIEBREAK_KEYS__{name}", value)
    keyring = Keyring.load(Settings.load(data_dir=Path("/nowhere")))
    assert keyring.seal_keys == {"a": bytes.fromhex(KEY)}


@pytest.mark.parametrize(("key", "message"), [("ab" * 31, "31 bytes"), ("xy" * 32, "hexadecimal")])
def test_unfit_keys_are_refused(tmp_path: Path, key: str, message: str) -> None:
    ensure_secrets(tmp_path / "secrets", is_new=True)
    write_secret(tmp_path / "secrets", "sampling.key", key)
    with pytest.raises(KeyUnfit, match=message):
        Keyring.load(Settings.load(data_dir=tmp_path))


def test_the_active_key_must_exist(tmp_path: Path) -> None:
    ensure_secrets(tmp_path / "secrets", is_new=True)
    write_secret(tmp_path / "secrets", "seal.current", "k9")
    with pytest.raises(KeyUnfit, match="k9"):
        Keyring.load(Settings.load(data_dir=tmp_path))


def test_the_fingerprint_names_what_differs() -> None:
    now = engine_fingerprint()
    assert len(now.hash) == 16
    assert now.differences(now.parts) == []
    assert now.differences({**now.parts, "polars": "0.1"}) == [
        f"polars: 0.1 → {now.parts['polars']}"
    ]


def test_a_bucket_is_named_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEBREAK_ARTIFACTS__URL", "s3://models/site/one/")
    monkeypatch.setenv("TIEBREAK_ARTIFACTS__ENDPOINT_URL", "http://127.0.0.1:9000")
    assert Settings.load().artifacts.place == ("models", "site/one")
    monkeypatch.setenv("TIEBREAK_ARTIFACTS__URL", "s3://models")
    assert Settings.load().artifacts.place == ("models", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("URL", "s3://"),
        ("URL", "models"),
        ("URL", "https://models"),
        ("URL", "s3://Models"),
        ("URL", "s3://models/../x"),
        ("URL", "s3://models//x"),
        ("URL", "s3://key:hidden-value@models/x"),
        ("URL", "s3://models/x?token=hidden-value"),
        ("ENDPOINT_URL", "127.0.0.1:9000"),
        ("ENDPOINT_URL", "http://key:hidden-value@127.0.0.1:9000"),
        ("ENDPOINT_URL", "http://127.0.0.1:9000/?token=hidden-value"),
        ("CACHE_BYTES", "0"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"TIEBREAK_ARTIFACTS__{name}", value)
    with pytest.raises(SettingsInvalid) as caught:
        Settings.load()
    assert [problem.where for problem in caught.value.problems] == [f"TIEBREAK_ARTIFACTS__{name}"]
    assert "hidden-value" not in str(caught.value) + repr(caught.value.problems)


def test_a_server_holds_public_keys_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    ensure_secrets(folder, is_new=True)
    (folder / "bundle.k1.key").unlink()
    (folder / "bundle.ed-2026.public").write_text(KEY)
    write_secret(folder, "bundle.current", "none")
    (folder / "bundle.revoked").write_text("k1\nk0\n")
    keyring = Keyring.load(Settings.load(data_dir=tmp_path))
    assert (keyring.bundle_signing_key_id, keyring.bundle_keys) == (None, {})
    assert keyring.bundle_public_keys == {"ed-2026": bytes.fromhex(KEY)}
    assert keyring.bundle_private_keys == {}
    assert keyring.bundle_revoked == {"k0", "k1"}


def test_a_private_key_has_its_public_key_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    ensure_secrets(folder, is_new=True)
    write_secret(folder, "bundle.ed-2026.private", KEY)
    with pytest.raises(KeyUnfit, match="public key of ed-2026"):
        Keyring.load(Settings.load(data_dir=tmp_path))
    (folder / "bundle.ed-2026.public").write_text(KEY)
    assert Keyring.load(Settings.load(data_dir=tmp_path)).bundle_private_keys.keys() == {"ed-2026"}
    (folder / "bundle.ed-2026.private").chmod(0o644)
    with pytest.raises(SecretExposed):
        Keyring.load(Settings.load(data_dir=tmp_path))


def test_an_id_names_one_bundle_key(tmp_path: Path) -> None:
    ensure_secrets(tmp_path / "secrets", is_new=True)
    (tmp_path / "secrets" / "bundle.k1.public").write_text(KEY)
    with pytest.raises(KeyUnfit, match="same id"):
        Keyring.load(Settings.load(data_dir=tmp_path))


def test_bundle_keys_of_all_kinds_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_secrets(tmp_path / "secrets", is_new=True)
    for name, value in {
        "BUNDLE": "{}",
        "BUNDLE_PUBLIC": f'{{"ed": "{KEY}"}}',
        "BUNDLE_KMS": '{"kms": {"key": "alias/bundles", "usage": "mac", "region": "eu-central-1"}}',
        "BUNDLE_REVOKED": '["k1"]',
        "BUNDLE_SIGNING_KEY_ID": "kms",
    }.items():
        monkeypatch.setenv(f"TIEBREAK_KEYS__{name}", value)
    keyring = Keyring.load(Settings.load(data_dir=tmp_path))
    assert keyring.bundle_kms_keys["kms"].key == "alias/bundles"
    assert (keyring.bundle_signing_key_id, keyring.bundle_revoked) == ("kms", {"k1"})
