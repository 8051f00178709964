"""A year of real requests: streamed, decided, retrained, and three broken candidates stopped."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.databases import DatabaseUrls
from tests.functional.broken import crashing, shuffled, snapshot_of
from tests.functional.places import ROOT, Place
from tests.functional.serving import settings_for
from tests.functional.stories import BY_ANN, Story, blocking, candidates, copied, part_of

DATA = Path(os.environ.get("TIEBREAK_REAL_DATA", ROOT.parent / "shared" / "data")) / "boston311"
PARTS = 4
RELEASE = """
release:
  gates:
    flips: {share: 1.0, lowered: 1.0}
    shift: {psi: 10}
    calibration: {error: 0.9}
    recall: {margin: 0.9}
    pr_auc: {margin: 0.9}
    auc: {margin: 0.9}
    slices: {margin: 1.0}
    backtest: {flips: 1.0, missed: 10, needless: 10, hours: 10, cost: 10}
"""
T = time.monotonic()


def say(*a: Any) -> None:
    print(f"[{time.monotonic() - T:6.1f}]", *a, flush=True)


def show(gates):
    for n, g in gates.items():
        say(f"{n:15} {g['verdict']:12} {g['figure']} {g['limit']} {g['sentence']}")


@pytest.mark.timeout(3000)
def test_x(module_database_urls: DatabaseUrls, valkey_url: str, tmp_path: Path):
    place = Place.made(tmp_path, module_database_urls, valkey_url)

    def declare(name, text):
        if name == "workflow.yaml":
            text = text.replace(
                "\noutcome_fields:\n",
                "\n  days_open: {type: number, source: post_days_open}\n\noutcome_fields:\n",
                1,
            )
            if "\nrelease:" not in text:
                text += RELEASE
        return text

    folder = copied("boston311", tmp_path / "w1", declare)
    place.json("workflow", "load", folder, *BY_ANN)
    hist = part_of(DATA / "tickets_2008_2015.parquet", "address", PARTS)
    year = part_of(DATA / "tickets_2016.parquet", "address", PARTS).drop("post_days_open")
    h, y = tmp_path / "h.parquet", tmp_path / "y.parquet"
    hist.write_parquet(h)
    year.write_parquet(y)
    say(hist.height, year.height)
    say(place.json("import", "boston311", h, "--known-by", "2016-01-01", "--as", "ann"))
    told = place.json("train", "boston311", "--known-by", "2016-01-01", *BY_ANN)
    say(
        told["rows"],
        told["metrics"]["auc"],
        told["metrics"]["pr_auc"],
        told["metrics"]["mean_score"],
        told["metrics"]["base_rate"],
    )
    place.json("release", "install", "boston311", "--approved-by", "bob", *BY_ANN)
    story = Story(place, "boston311", y)
    for m in range(1, 7):
        story.until(f"2016-{m + 1:02d}-01", since=f"2016-{m:02d}-01")
    say("streamed till July")
    told = place.json("train", "boston311", *BY_ANN)
    say(
        told["rows"],
        told["metrics"]["auc"],
        told["metrics"]["pr_auc"],
        told["metrics"]["mean_score"],
        told["metrics"]["base_rate"],
        told["leakage"],
    )
    with candidates(place):
        b = story.proposed(
            "--bundle", told["bundle_digest"], since="2016-01-01", until="2016-07-01"
        )
        say("proposed")
        story.shadow(b, since="2016-07-01")
        for m in range(7, 9):
            story.until(f"2016-{m + 1:02d}-01", since=f"2016-{m:02d}-01")
        say("streamed", story.scored(b))
        g = story.gates(b, "2016-09-01", is_passed=None)
        show(g)
        say(blocking(g))
        say(story.promoted(b))
        for m in range(9, 11):
            story.until(f"2016-{m + 1:02d}-01", since=f"2016-{m:02d}-01")
        say("streamed till Nov")
        settings = settings_for(place.urls, tmp_path / "data")
        leaky = copied(
            "boston311",
            tmp_path / "w2",
            lambda n, x: (
                declare(n, x) + ("\n  open_days: days_open\n" if n == "features.yaml" else "")
            ),
        )
        code, out, err = place.run("workflow", "check", leaky, "--json")
        say(code, out, err)
        cheat = copied(
            "boston311",
            tmp_path / "w3",
            lambda n, x: (
                declare(n, x) + ("\n  is_open: status = 'open'\n" if n == "features.yaml" else "")
            ),
        )
        code, out, err = place.run("workflow", "check", cheat, "--json")
        say(code, out, err)
        snap = snapshot_of(settings, "boston311", datetime(2016, 11, 1, tzinfo=UTC))
        say("snap", snap.frame.height)
        digests = {}
        digests["crashing"] = crashing(
            settings, snap, told["bundle_digest"], datetime(2016, 9, 1, tzinfo=UTC)
        )
        say("crashing")
        digests["shuffled"] = shuffled(settings, snap, datetime(2016, 7, 1, tzinfo=UTC))
        say("shuffled")
        releases = {}
        for name, digest in digests.items():
            releases[name] = story.proposed(
                "--bundle", digest, since="2016-01-01", until="2016-09-01"
            )
            story.shadow(releases[name], since="2016-09-01")
        say("proposed")
        place.json("workflow", "load", leaky, *BY_ANN)
        code, out, err = place.run("train", "boston311", *BY_ANN, "--json")
        say(code, out, err)
        feats = [leak["feature"] for leak in json.loads(out)["error"]["leaks"]]
        words = [w for f in feats for w in ("--waive-leakage", f)]
        told = place.json(
            "train", "boston311", "--as", "ann", "--reason", "it is in the export", *words
        )
        say(told["rows"], told["metrics"]["auc"], told["metrics"]["pr_auc"], told["leakage"])
        releases["leaky"] = story.proposed(
            "--workflow",
            leaky,
            "--bundle",
            told["bundle_digest"],
            since="2016-01-01",
            until="2016-09-01",
        )
        story.shadow(releases["leaky"], since="2016-09-01")
        for name, release in releases.items():
            say(name, story.scored(release))
            g = story.gates(release, "2016-11-01", is_passed=None)
            show(g)
            say(name, blocking(g))
        say(story.production())
        say(place.json("audit", "verify"))
        say(place.json("replay", "--workflow", "boston311", "--sample", 1000))
