"""A model of March goes stale in April, and its successor wins against it, on real incidents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.databases import DatabaseUrls
from tests.functional.places import ROOT, Place
from tests.functional.stories import BY_ANN, Story, blocking, candidates, copied, written

DATA = Path(os.environ.get("TIEBREAK_REAL_DATA", ROOT.parent / "shared" / "data")) / "itsm"
INCIDENTS = DATA / "incidents.parquet"
# A stale model's bands are no measure of its successor's, but what both cost is: sending almost
# everything to people it misses a handful, so any successor misses many times as many.
RELEASE = """
release:
  reviews_per_day: 60
  missed_cost: 2
  needless_cost: 1
  gates:
    flips: null
    backtest: {flips: 1, missed: 100}
"""

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not INCIDENTS.is_file(),
        reason=f"REAL DATA MISSING: no {INCIDENTS}; set TIEBREAK_REAL_DATA to where itsm/ is",
    ),
]


def _with_limits(name: str, text: str) -> str:
    return written(text, "release", RELEASE) if name == "workflow.yaml" else text


def test_a_stale_model_shows_in_shadow_and_its_successor_wins(
    module_database_urls: DatabaseUrls, valkey_url: str, tmp_path: Path
) -> None:
    place = Place.made(tmp_path, module_database_urls, valkey_url)
    story = Story(place, "itsm", INCIDENTS)
    folder = copied("itsm", tmp_path / "itsm", _with_limits)
    place.json("workflow", "load", folder, *BY_ANN)
    place.json("import", "itsm", INCIDENTS, "--known-by", "2016-04-01", "--as", "ann")
    march = story.trained("--known-by", "2016-04-01")
    place.json("release", "install", "itsm", "--without-gates", "--approved-by", "bob", *BY_ANN)
    story.until("2016-04-22", since="2016-04-01")

    april = story.trained(*("--known-by", "2016-04-22", "--valid-from", "2016-04-13", "--depth", 3))
    with candidates(place):
        release = story.proposed(
            "--bundle", april["bundle_digest"], since="2016-03-01", until="2016-04-22"
        )
        story.shadow(release, since="2016-04-22")
        story.until("2016-05-15", since="2016-04-22")
        assert story.scored(release)["scored"] > 2_000
    gates = story.gates(release, "2016-05-15")
    assert blocking(gates) == {}, gates["backtest"]["sentence"]

    stale, fresh = (gates["auc"]["detail"][name] for name in ("production", "candidate"))
    assert stale < 0.65 < fresh
    assert gates["auc"]["detail"]["low"] > 0  # more than chance explains
    assert gates["pr_auc"]["detail"]["low"] > 0
    off = gates["calibration"]
    assert off["detail"]["production"] > 0.3 > off["figure"]
    assert march["metrics"]["mean_score"] > 1.5 * april["metrics"]["base_rate"]

    before = story.production()
    after = story.promoted(release)
    assert after != before
    assert place.json("audit", "verify")["intact"]
    story.check_replay()
