"""`tiebreak config check` and `tiebreak up` look at the bucket and say what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from tests import s3
from tests.functional.test_cli_frame import tiebreak

from tiebreak.cli import exits


def secrets_in(text: str) -> list[str]:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return [name for name in names if s3.CREDENTIALS[name] in text]


def test_a_sound_bucket_passes_and_no_credential_is_shown(s3_server: s3.S3) -> None:
    done = tiebreak("config", "check", **s3_server.environment())
    assert done.returncode == exits.OK, done.stderr
    assert f"s3://{s3.BUCKET}" in done.stdout
    assert secrets_in(done.stdout + done.stderr) == []


@pytest.mark.full
def test_a_bucket_that_is_away_is_told(s3_server: s3.S3) -> None:
    environment = s3_server.environment()
    environment["TIEBREAK_ARTIFACTS__ENDPOINT_URL"] = s3.S3().endpoint_url
    done = tiebreak("config", "check", "--json", **environment)
    assert done.returncode == 3
    (problem,) = orjson.loads(done.stdout)["error"]["problems"]
    assert problem["code"] == "artifacts_unavailable"
    assert secrets_in(done.stdout + done.stderr) == []


def test_a_bucket_that_keeps_no_versions_is_told_with_the_command_to_mend_it(
    s3_server: s3.S3,
) -> None:
    s3_server.client().create_bucket(Bucket="versionless")
    environment = {**s3_server.environment(), "TIEBREAK_ARTIFACTS__URL": "s3://versionless"}
    done = tiebreak("config", "check", **environment)
    assert done.returncode == 3
    told = " ".join(done.stderr.split())
    assert "put-bucket-versioning --bucket versionless" in told


def test_up_without_the_client_stops_before_anything_starts(
    s3_server: s3.S3, tmp_path: Path
) -> None:
    (tmp_path / "botocore").mkdir()
    (tmp_path / "botocore" / "__init__.py").write_text("raise ModuleNotFoundError('botocore')")
    data = tmp_path / "data"
    environment = {
        **s3_server.environment(),
        "PYTHONPATH": str(tmp_path),
        "TIEBREAK_DATA_DIR": str(data),
    }
    done = tiebreak("up", **environment)
    assert done.returncode == 3
    assert "tiebreak[s3]" in done.stderr
    assert not data.exists()
