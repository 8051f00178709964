"""A model of March goes stale in April, and its successor wins against it, on real incidents."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.databases import DatabaseUrls
from tests.functional.places import ROOT, Place
from tests.functional.stories import BY_ANN, Story, blocking, candidates

DATA = Path(os.environ.get("TIEBREAK_REAL_DATA", ROOT.parent / "shared" / "data")) / "itsm"
T = time.monotonic()


def say(*a: Any) -> None:
    print(f"[{time.monotonic() - T:6.1f}]", *a, flush=True)


def show(gates):
    for n, g in gates.items():
        say(f"{n:15} {g['verdict']:12} {g['figure']} {g['limit']} {g['sentence']}")


@pytest.mark.timeout(3000)
def test_x(module_database_urls: DatabaseUrls, valkey_url: str, tmp_path: Path):
    place = Place.made(tmp_path, module_database_urls, valkey_url)
    place.json("workflow", "load", ROOT / "workflows" / "itsm", *BY_ANN)
    y = DATA / "incidents.parquet"
    say(place.json("import", "itsm", y, "--known-by", "2016-04-01", "--as", "ann"))
    told = place.json("train", "itsm", "--known-by", "2016-04-01", *BY_ANN)
    say(
        told["rows"],
        told["metrics"]["auc"],
        told["metrics"]["pr_auc"],
        told["metrics"]["mean_score"],
        told["metrics"]["base_rate"],
    )
    place.json("release", "install", "itsm", "--approved-by", "bob", *BY_ANN)
    story = Story(place, "itsm", y)
    story.until("2016-04-22", since="2016-04-01")
    say("streamed half")
    with candidates(place):
        rs = {}
        for v in (
            (),
            ("--family", "lightgbm"),
            ("--valid-from", "2016-04-11"),
            ("--depth", 3, "--valid-from", "2016-04-13"),
        ):
            told = place.json("train", "itsm", "--known-by", "2016-04-22", *BY_ANN, *v)
            say(
                v,
                told["rows"],
                told["metrics"]["auc"],
                told["metrics"]["pr_auc"],
                told["metrics"]["mean_score"],
                told["metrics"]["base_rate"],
            )
            rs[v] = story.proposed(
                "--bundle", told["bundle_digest"], since="2016-03-01", until="2016-04-22"
            )
            story.shadow(rs[v], since="2016-04-22")
        story.until("2016-05-15", since="2016-04-22")
        for v, b in rs.items():
            say("streamed", v, story.scored(b)["scored"])
            g = story.gates(b, "2016-05-15", is_passed=None)
            show(g)
            say(blocking(g))
