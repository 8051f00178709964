"""Models on the command line and over HTTP: brought in, listed, compared, renewed, revoked."""

from __future__ import annotations

import hashlib
import hmac
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import xgboost as xgb
from tests.databases import DatabaseUrls
from tests.functional.places import ROOT, Place
from tests.functional.serving import settings_for
from tests.sample_models import frame_of, parameters, snapshot

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.cli import exits
from tiebreak.core.model import Model
from tiebreak.core.workflow import FamilyChoice
from tiebreak.settings import Keyring
from tiebreak.training.train import train
from tiebreak.web.shapes import ModelDetail, ModelList

KEY = bytes(range(32))
FEATURES = ["dig_depth_ft", "area_sqft"]
BY_ANN = ("--as", "ann", "--reason", "test")


@pytest.fixture
def place(database_urls: DatabaseUrls, valkey_url: str, tmp_path: Path) -> Place:
    """`locate`, without tickets."""
    found = Place.made(tmp_path, database_urls, valkey_url)
    found.json("workflow", "load", ROOT / "workflows" / "locate", *BY_ANN)
    (tmp_path / "key.hex").write_text(KEY.hex())
    return found


def legacy_file(folder: Path, seed: int = 0) -> Path:
    """A model of another system with its signature beside it."""
    chance = np.random.default_rng(seed)
    x = chance.normal(size=(300, len(FEATURES)))
    model = xgb.XGBClassifier(n_estimators=5, max_depth=3).fit(x, x[:, 0] > 0)
    model.get_booster().feature_names = FEATURES
    path = folder / f"risk_model_{seed}.joblib"
    joblib.dump(model, path)
    mac = hmac.new(KEY, path.read_bytes(), hashlib.sha256).hexdigest()
    path.with_suffix(".sig").write_text(mac)
    return path


def imported(place: Place, seed: int = 0) -> str:
    path = legacy_file(place.folder, seed)
    key = ("--workflow", "locate", "--key", place.folder / "key.hex")
    return place.json("model", "import", path, *key, *BY_ANN)["digest"]


@pytest.mark.full
def test_a_legacy_model_is_brought_in_listed_shown_and_compared(place: Place) -> None:
    first, second = imported(place), imported(place, seed=1)
    listed = place.json("model", "list", "--workflow", "locate")
    ModelList.model_validate(listed)
    assert [model["digest"] for model in listed["models"]] == [second, first]
    newest = listed["models"][0]
    assert (newest["origin"], newest["made_by"]) == ("legacy joblib", "ann")
    assert newest["uses"] == ["locate: candidate"]
    shown = place.json("model", "show", second[:12])
    ModelDetail.model_validate(shown)
    assert shown["manifest"]["origin"]["inputs"] == {name: name for name in FEATURES}
    assert place.json("model", "verify", first)["verified"]
    diff = place.json("model", "diff", first, second)
    assert diff["features"] == {"added": [], "removed": [], "changed": []}
    for form, start in (("md", "# Model card: locate"), ("html", "<!doctype html>")):
        card = place.json("model", "card", second, "--format", form)["card"]
        assert card.startswith(start)
        assert "Its scores are the original" in card
    for words in (("list",), ("show", second), ("diff", first, second), ("card", second)):
        code, out, err = place.run("model", *words)
        assert (code, err) == (exits.OK, "")
        assert out.strip()
    place.json(
        "release",
        "install",
        "locate",
        "--model",
        second,
        "--approved-by",
        "bob",
        "--without-gates",
        *BY_ANN,
    )
    used = place.json("model", "show", second)
    assert "locate: production" in used["model"]["uses"]
    assert [r["approver"] for r in used["lineage"]["releases"]] == ["bob"]
    assert len(used["lineage"]["policies"]) == 1


def test_mistakes_say_what_to_do_next(place: Place) -> None:
    path = legacy_file(place.folder)
    key = ("--workflow", "locate", *BY_ANN, "--key", place.folder / "key.hex")

    def refused(*words: Any, code: int) -> dict[str, Any]:
        error = place.json("model", *words, code=code)["error"]
        assert error["hint"] or error["problems"], error
        return error

    signature = path.with_suffix(".sig").read_text()
    path.with_suffix(".sig").unlink()
    assert refused("import", path, *key, code=8)["code"] == "legacy_unsigned"
    path.with_suffix(".sig").write_text("00" * 32)
    assert refused("import", path, *key, code=8)["code"] == "legacy_altered"
    path.with_suffix(".sig").write_bytes(b"\xff of another kind")
    assert "does not fit" in refused("import", path, *key, code=8)["message"]
    path.with_suffix(".sig").write_text(signature)
    (place.folder / "notes.txt").write_text("these are notes")
    other = refused("import", place.folder / "notes.txt", *key, code=3)
    assert "a text that begins with 'these are notes'" in other["message"]
    (place.folder / "map.yaml").write_text("{dig_depth_ft: dig_depth_f, area_sqft: area_sqft}")
    mapped = refused("import", path, *key, "--map", place.folder / "map.yaml", code=3)
    assert "dig_depth_ft" in mapped["problems"][0]["hint"]
    assert refused("import", path, *key[:-2], code=3)["code"] == "form_unknown"
    assert refused("show", "abc", code=4)["code"] == "no_such_model"


@pytest.mark.full
def test_a_bundle_moves_to_a_server_that_only_verifies(place: Place) -> None:
    secrets = place.folder / "data" / "secrets"
    made = place.json("model", "keygen", "ed-2026")
    assert stat.S_IMODE(Path(made["private"]).stat().st_mode) == 0o600
    assert place.json("model", "keygen", "ed-2026", code=5)["error"]["code"] == "key_exists"
    digest = imported(place)
    (secrets / "bundle.current").write_text("ed-2026")
    checked = place.json("config", "check")["bundle_keys"]
    assert [(key["key_id"], key["signs"]) for key in checked] == [("k1", False), ("ed-2026", True)]
    assert place.json("model", "renew", *BY_ANN)["renewed"] == [digest]
    assert place.json("model", "renew", *BY_ANN)["renewed"] == []
    out = place.folder / "model.bundle"
    place.json("model", "export", digest, "--to", out)
    assert place.json("model", "verify", out)["key_id"] == "ed-2026"

    for name in ("bundle.ed-2026.private", "bundle.k1.key"):
        (secrets / name).unlink()
    (secrets / "bundle.current").write_text("none")
    assert [
        (k["algorithm"], k["verifies"], k["signs"])
        for k in place.json("config", "check")["bundle_keys"]
    ] == [("ed25519", True, False)]
    (place.folder / "data" / "artifacts" / "bundles" / f"{digest}.bundle").unlink()
    assert place.json("model", "import", out, "--workflow", "locate", *BY_ANN)["digest"] == digest
    again = ("model", "import", legacy_file(place.folder), "--workflow", "locate")
    refused = place.json(*again, "--key", place.folder / "key.hex", *BY_ANN, code=6)
    assert refused["error"]["code"] == "cannot_sign"
    other = place.json("model", "import", out, "--workflow", "boston", *BY_ANN, code=4)
    assert other["error"]["code"] == "unknown_workflow"


@pytest.mark.full
def test_a_revoked_key_takes_its_models_out_of_service(place: Place) -> None:
    digest = imported(place)
    refused = place.json("model", "revoke", "k1", *BY_ANN, code=3)["error"]
    assert "revoked" in refused["hint"]
    place.json("model", "keygen", "ed-2026")
    (place.folder / "data" / "secrets" / "bundle.current").write_text("ed-2026")
    assert place.json("model", "revoke", "k1", *BY_ANN)["models"] == [digest]
    assert place.json("model", "verify", digest, code=8)["error"]["code"] == "bundle_key_revoked"
    assert "revoked" in place.json("model", "list")["models"][0]["problem"]
    renewed = place.json("model", "renew", *BY_ANN)
    assert renewed["renewed"] == []
    assert [failed["digest"] for failed in renewed["failed"]] == [digest]
    actions = [e["action"] for e in place.json("audit", "list")["entries"]]
    assert "bundle_key.revoked" in actions


def trained(place: Place, family: FamilyChoice) -> Mapping[str, bytes]:
    """The parts of a model that was trained here; it is stored, too."""
    settings = settings_for(place.urls, place.folder / "data")
    parts = train(
        snapshot(), parameters(family=family), lambda _step, _share: None, fingerprint="here"
    ).parts
    keys = BundleKeys.of(Keyring.load(settings))
    ArtifactStore.of(settings).put_bundle(make_bundle(parts, keys))
    return parts


@pytest.mark.parametrize("family", ["xgboost", "lightgbm"])
def test_a_model_trained_here_goes_out_as_a_pair_that_says_the_same(
    place: Place, family: FamilyChoice
) -> None:
    model = Model.load(trained(place, family), "0" * 64)
    digest = place.json("model", "list")["models"][0]["digest"]
    path = place.folder / "out.joblib"
    key = ("--joblib", "--key", place.folder / "key.hex")
    told = place.json("model", "export", digest[:12], "--to", path, *key)
    assert told["paths"] == [str(path), str(path.with_suffix(".sig"))]
    mac = hmac.new(KEY, path.read_bytes(), hashlib.sha256).hexdigest()
    assert path.with_suffix(".sig").read_text().strip() == mac
    x = model.matrix(frame_of(500, seed=9))
    np.save(place.folder / "x.npy", x)
    assert b"tiebreak" not in path.read_bytes()  # another system knows nothing of ours
    load = (
        "from tiebreak.training.openmp import provide_openmp; provide_openmp();"
        "import joblib, numpy as np; m = joblib.load('out.joblib'); x = np.load('x.npy');"
        "s = m.predict_proba(x)[:, 1] if hasattr(m, 'predict_proba') else m.predict(x);"
        "np.save('s.npy', s)"
    )
    subprocess.run([sys.executable, "-c", load], cwd=place.folder, check=True)
    margins = model.margins(x).astype(np.float64)
    np.testing.assert_allclose(np.load(place.folder / "s.npy"), 1 / (1 + np.exp(-margins)), 0, 1e-6)


def test_an_imported_model_does_not_go_out_again(place: Place) -> None:
    path = place.folder / "out.joblib"
    options = ("--to", path, "--joblib", "--key", place.folder / "key.hex")
    error = place.json("model", "export", imported(place)[:12], *options, code=3)["error"]
    assert error["code"] == "no_native_model"
    assert "keep the file" in error["hint"]
    assert not path.exists()
