"""Checking a workflow's folder: each kind of mistake is named at its line, all at once."""

from __future__ import annotations

import textwrap
from pathlib import Path

import orjson
import pytest

from tiebreak.core.features import FeaturePlan
from tiebreak.core.policy import Policy
from tiebreak.core.release_plan import FlipLimits, VolumeLimits
from tiebreak.core.workflow import HistoryFeature, RowFeature, Workflow
from tiebreak.workflows.check import Checked, MistakenWorkflow, check_folder

WORKFLOW = """\
name: holes
title: Holes
time: opened_at
calendar: {timezone: America/New_York, country: US, subdivision: MA, years: [2015, 2018]}
fields:
  opened_at: {type: timestamp, required: true, timezone: America/New_York}
  road: {type: category, values: [local, arterial, highway]}
  depth: {type: number, minimum: 0}
  street: {type: text}
  remarks: {type: text, pii: true}
outcome_fields:
  was_late: {type: boolean}
  cost: {type: number}
  fixed_at: {type: timestamp, timezone: America/New_York}
events:
  - {kind: closed, known_at: fixed_at}
  - {kind: outcome, known_at: 'add_days(opened_at, 7)', fields: [was_late]}
entities:
  street: street
label: {name: late, sql: was_late, maturity_days: 7}
"""
FEATURES = """\
features:
  hour_of_day: hour(opened_at)
  is_deep: depth > 3
  deep_night: is_deep AND hour_of_day < 6
  street_count: {entity: street, aggregate: count}
  street_late: {entity: street, aggregate: rate, on: outcome, where: was_late}
"""
RULES = """\
rules:
  highway:
    {when: road = 'highway' AND depth >= 4, effect: floor, band: high, hard: true, message: Deep.}
  busy:
    {when: street_count >= 3 AND street_late > 0.5, effect: points, points: 25, message: Again.}
  new-law:
    when: deep_night
    effect: escalate
    message: A new law.
    valid_from: 2018-01-01
"""
EXAMPLES = """\
examples:
  - name: deep and busy
    fields: {opened_at: '2017-03-06T08:30:00', road: highway, depth: 5, street: Main}
    history: {street_count: 3, street_late: 0.75}
    band: high
    rules: [highway, busy]
"""


def check(folder: Path, **changed: str) -> Checked:
    files = {"workflow": WORKFLOW, "features": FEATURES, "rules": RULES, "examples": EXAMPLES}
    for name, text in (files | changed).items():
        (folder / f"{name}.yaml").write_text(textwrap.dedent(text))
    return check_folder(folder)


def told(checked: Checked) -> list[tuple[str, str]]:
    return [(f"{m.place.file}:{m.place.line}", f"{m.message}|{m.hint}") for m in checked.mistakes]


def test_a_sound_workflow(tmp_path: Path) -> None:
    checked = check(tmp_path)
    assert told(checked) == []
    assert checked.unfired == ("new-law",)
    workflow, rules = checked.sound()
    assert [f.name for f in workflow.fields] == ["opened_at", "road", "depth", "street", "remarks"]
    assert workflow.entities[0].key == ("street",)
    assert isinstance(workflow.features[0], RowFeature)
    assert isinstance(workflow.features[4], HistoryFeature)
    assert "2017-04-17" in {str(day) for day in workflow.calendar.holidays}  # Patriots' Day
    assert "2019-01-01" not in {str(day) for day in workflow.calendar.holidays}
    valid_from = rules.rules[2].valid_from
    assert valid_from is not None
    assert valid_from.isoformat() == "2018-01-01T05:00:00+00:00"
    Policy.build(workflow, rules)
    assert FeaturePlan(workflow).names == tuple(f.name for f in workflow.features)


def test_a_cell_of_the_grid_is_a_category_and_the_key_of_an_entity(tmp_path: Path) -> None:
    checked = check(
        tmp_path,
        workflow=WORKFLOW.replace(
            "  remarks:",
            "  lat: {type: number, minimum: -90, maximum: 90}\n"
            "  lon: {type: number, minimum: -180, maximum: 180}\n"
            "  remarks:",
        ).replace("street: street\n", "street: street\n  cell: 'geo_cell(lat, lon, 6)'\n"),
        features=FEATURES + "  area: {sql: 'geo_cell(lat, lon, 4)', kind: category}\n"
        "  cell_late: {entity: cell, aggregate: rate, on: outcome, where: was_late}\n",
        rules=RULES.replace(
            "deep_night\n", "area = 'drt2' AND geo_within_radius(lat, lon, 42.36, -71.06, 900)\n"
        ),
        examples=EXAMPLES + "  - name: in the middle of Boston\n"
        "    as_of: 2018-03-06T08:31:00-05:00\n"
        "    fields: {opened_at: '2018-03-06T08:30:00', lat: 42.3601, lon: -71.0589}\n"
        "    history: {cell_late: 0.5}\n"
        "    band: low\n"
        "    rules: [new-law]\n",
    )
    assert told(checked) == []
    workflow, _ = checked.sound()
    assert FeaturePlan(workflow).kinds()["area"] == "category"
    assert workflow.entities[1].key == ("geo_cell(lat, lon, 6)",)


def test_a_text_is_a_feature_of_its_own_kind(tmp_path: Path) -> None:
    said = "  said: {sql: \"remarks || ' ' || street\", kind: text}\n"
    checked = check(tmp_path, features=FEATURES + said)
    assert told(checked) == []
    plan = FeaturePlan(checked.sound()[0])
    assert plan.kinds()["said"] == "text"
    assert orjson.loads(plan.definitions()["said"])["kind"] == "text"


def test_the_same_files_are_the_same_version(tmp_path: Path) -> None:
    one = check(tmp_path)
    two = check(tmp_path, rules=RULES.replace("points: 25", "points: 26"))
    three = check(tmp_path, workflow="# a comment\n" + WORKFLOW)
    assert one.workflow.version == two.workflow.version == three.workflow.version
    assert one.rules.version == three.rules.version != two.rules.version


def test_the_family_is_part_of_the_version_where_it_is_not_the_default(tmp_path: Path) -> None:
    plain, chosen = (
        check(tmp_path, workflow=WORKFLOW + line).workflow
        for line in ("family: xgboost\n", "family: lightgbm\n")
    )
    assert (plain.family, chosen.family) == ("xgboost", "lightgbm")
    assert plain.version == check(tmp_path).workflow.version != chosen.version
    assert Workflow.model_validate_json(plain.model_dump_json()) == plain
    assert Workflow.model_validate_json(chosen.model_dump_json()) == chosen
    assert "family" not in plain.model_dump()  # so versions from before it keep their names


RELEASE = """\
release:
  canary: required
  canary_steps:
    - {percent: 10, hours: 1.5, tickets: 50}
    - {percent: 40, hours: 6, tickets: 200}
  reviews_per_day: 120
  approval_hours: 8
  missed_cost: 900
  needless_cost: 15
  gates:
    volume: {tickets: 300, days: 2}
    pr_auc: {margin: 0.05}
    shift: null
    replay: {sample: 500}
"""


def test_the_way_of_a_release_is_part_of_the_version_where_it_is_told(tmp_path: Path) -> None:
    plain, told_of = check(tmp_path), check(tmp_path, workflow=WORKFLOW + RELEASE)
    assert told(told_of) == []
    plan = told_of.workflow.release
    assert plan.canary == "required"
    assert [step.percent for step in plan.canary_steps] == [10, 40]
    assert plan.gates.volume == VolumeLimits(tickets=300, days=2)
    assert plan.gates.shift is None
    assert plan.gates.flips == FlipLimits()
    assert plain.workflow.version != told_of.workflow.version
    assert "release" not in plain.workflow.model_dump()  # versions from before keep their names
    for checked in (plain, told_of):
        again = Workflow.model_validate_json(checked.workflow.model_dump_json())
        assert again == checked.workflow


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("volume: {", "volme: {", 31, "unknown key `volme`|did you mean `volume`?"),
        ("margin: 0.05", "margn: 0.05", 32, "unknown key `margn`|did you mean `margin`?"),
        ("margin: 0.05", "margin: 0", 32, "`gates.pr_auc.margin` should be greater than 0"),
        ("sample: 500", "sample: 5", 34, "should be greater than or equal to 20"),
        ("replay: {sample: 500}", "replay: null", 34, "`gates.replay` must be a mapping"),
        ("tickets: 50}", "tikets: 50}", 24, "unknown key `tikets`|did you mean `tickets`?"),
        ("percent: 40", "percent: 10", 25, "`percent` must rise from step to step|more than 10"),
        ("percent: 40", "percent: 60", 25, "at most half of the tickets|at most 50"),
        ("canary: required", "canary: requird", 22, "did you mean `required`?"),
        ("approval_hours: 8", "approval_hours: 800", 27, "less than or equal to 744"),
        ("  needless_cost: 15\n", "", 28, "a cost is compared with the other"),
    ],
)
def test_each_mistake_in_the_way_of_a_release(
    tmp_path: Path, old: str, new: str, line: int, what: str
) -> None:
    assert old in RELEASE
    found = told(check(tmp_path, workflow=WORKFLOW + RELEASE.replace(old, new, 1)))
    if what.startswith("unknown key `tikets`"):  # what is missing there is told once
        found = [each for each in found if "tikets" in each[1]]
    assert [(where, what in text) for where, text in found] == [(f"workflow.yaml:{line}", True)]


def test_slices_are_part_of_the_version_where_there_are_any(tmp_path: Path) -> None:
    plain, sliced = (
        check(tmp_path, workflow=WORKFLOW + line).workflow
        for line in ("slices: []\n", "slices: [method]\n")
    )
    assert plain.version == check(tmp_path).workflow.version != sliced.version
    assert Workflow.model_validate_json(sliced.model_dump_json()).slices == ("method",)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    checked = check(
        tmp_path,
        workflow=WORKFLOW.replace("time: opened_at", "time: opend_at")
        .replace("depth: {type: number,", "depth: {type: numbr,")
        .replace("pii: true", "pi: true"),
        features=FEATURES.replace("hour(opened_at)", "hour(opend_at)"),
        rules=RULES.replace("'highway'", "'higway'").replace("points: 25", "points: 2500"),
    )
    assert told(checked) == [
        ("features.yaml:2", "unknown field `opend_at`|did you mean `opened_at`?"),
        ("rules.yaml:3", "`road` never is 'higway'|did you mean `highway`?"),
        ("rules.yaml:5", "`points` should be less than or equal to 1000|"),
        ("workflow.yaml:3", "unknown field `opend_at`|did you mean `opened_at`?"),
        (
            "workflow.yaml:8",
            "`numbr` is not one of text, category, integer, number, boolean, timestamp, date, "
            "tags|did you mean `number`?",
        ),
        ("workflow.yaml:10", "unknown key `pi`|did you mean `pii`?"),
    ]
    with pytest.raises(MistakenWorkflow) as caught:
        checked.sound()
    assert caught.value.problems[0].where == "features.yaml:2:21"
    assert "6 mistakes" in caught.value.message


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        # fields
        ("workflow", "street: {type: text}", "street: {}",
         ("workflow.yaml:9", "`type` is missing")),
        ("workflow", "remarks: {type: text", "Remarks: {type: text",
         ("workflow.yaml:10", "`Remarks` is not a name")),
        ("workflow", "street: {type: text}", "street: {type: text, values: [a]}",
         ("workflow.yaml:9", "a text has no `values`")),
        ("workflow", "street: {type: text}", "street: {type: text, timezone: UTC}",
         ("workflow.yaml:9", "a text has no `timezone`")),
        ("workflow", "street: {type: text}", "street: {type: text, minimum: 1}",
         ("workflow.yaml:9", "a text has no `minimum`")),
        ("workflow", "street: {type: text}", "street: {type: text, max_length: 0}",
         ("workflow.yaml:9", "`max_length` must be at least 1")),
        ("workflow", "street: {type: text}", "street: {type: text, max_length: '9'}",
         ("workflow.yaml:9", "`max_length` must be an integer")),
        ("workflow", "street: {type: text}", "street: {type: text, name: x}",
         ("workflow.yaml:9", "`name` is not a key here")),
        ("workflow", "minimum: 0", "minimum: 3, maximum: 2",
         ("workflow.yaml:8", "`maximum` is below `minimum`")),
        ("workflow", "[local, arterial, highway]", "[local, arterial, highway, local]",
         ("workflow.yaml:7", "a value is listed twice")),
        ("workflow", "[local, arterial, highway]", "[1]",
         ("workflow.yaml:7", "`values` must be a text")),
        ("workflow", "required: true, timezone: America/New_York",
         "required: true, timezone: America/NewYork",
         ("workflow.yaml:6",
          "`America/NewYork` is not a time zone|did you mean `America/New_York`?")),
        ("workflow", "required: true, ", "", ("workflow.yaml:3", "`opened_at` must be a required")),
        ("workflow", "was_late: {type: boolean}", "was_late: {type: boolean, source: road}",
         ("workflow.yaml:12", "column `road` is already read by `road`")),
        ("workflow", "  cost: {type: number}", "  depth: {type: number}",
         ("workflow.yaml:13", "`depth` is taken by `fields`")),
        ("workflow", "  cost: {type: number}", "  as_of: {type: number}",
         ("workflow.yaml:13", "`as_of` is taken by Tiebreak")),
        ("workflow", "  cost: {type: number}", "  case: {type: number}",
         ("workflow.yaml:13", "`case` is a word of SQL")),
        # calendar
        ("workflow", "country: US", "country: UZZ", ("workflow.yaml:4", "`UZZ` is not a country")),
        ("workflow", "subdivision: MA", "subdivision: ZZ",
         ("workflow.yaml:4", "`ZZ` is not a part of US with holidays")),
        ("workflow", "years: [2015, 2018]", "years: [2018, 2015]",
         ("workflow.yaml:4", "must be a first and a last year")),
        ("workflow", ", years: [2015, 2018]", "", ("workflow.yaml:4", "needs `years`")),
        ("workflow", "country: US, subdivision: MA, years: [2015, 2018]", "weekend: [0, 7]",
         ("workflow.yaml:4", "must be ISO weekdays")),
        ("workflow", "years: [2015, 2018]", "years: [2015, 2018], holidays: [2017-02-30]",
         ("workflow.yaml:4", "`holidays` should be a valid date")),
        # entities, events, label, knobs, keys
        ("workflow", "street: street", "street: [stret]",
         ("workflow.yaml:19", "unknown field `stret`|did you mean `street`?")),
        ("workflow", "street: street", "street: []",
         ("workflow.yaml:19", "`key` must not be empty")),
        ("workflow", "street: street", "street: [was_late]",
         ("workflow.yaml:19", "`was_late` is known only after the fact")),
        ("workflow", "street: street", "street: [depth]",
         ("workflow.yaml:19", "the result is NUMBER, not BOOLEAN or DATE or INTEGER or TEXT")),
        ("workflow", "kind: closed", "kind: close",
         ("workflow.yaml:16",
          "`close` is not one of outcome, closed, acted|did you mean `closed`?")),
        ("workflow", "known_at: fixed_at", "known_at: cost", ("workflow.yaml:16", "not TIMESTAMP")),
        ("workflow", "fields: [was_late]", "fields: [was_lat]",
         ("workflow.yaml:17", "unknown outcome field `was_lat`|did you mean `was_late`?")),
        ("workflow", "sql: was_late", "sql: cost", ("workflow.yaml:20", "not BOOLEAN")),
        ("workflow", "sql: was_late", "sql: depth > 3",
         ("workflow.yaml:20", "unknown field `depth`")),
        ("workflow", "maturity_days: 7", "maturity_days: -1",
         ("workflow.yaml:20", "`maturity_days` should be greater than or equal to 0")),
        ("workflow", "label:", "knobs: {points: {medium: 5, high: 5, critical: 6}}\nlabel:",
         ("workflow.yaml:20", "`points` must rise")),
        ("workflow", "label:", "knobs: {points: {medium: 5, hihg: 5, critical: 6}}\nlabel:",
         ("workflow.yaml:20", "unknown key `hihg`|did you mean `high`?")),
        ("workflow", "label:", "knobs: {audit_share: 1.5}\nlabel:",
         ("workflow.yaml:20", "`audit_share` should be less than or equal to 1")),
        ("workflow", "label:", "knobs: {uncertain_low: 0.4}\nlabel:",
         ("workflow.yaml:20", "`uncertain_low` is above `uncertain_high`")),
        ("workflow", "title: Holes", "titel: Holes",
         ("workflow.yaml:2", "unknown key `titel`|did you mean `title`?")),
        ("workflow", "title: Holes\n", "", ("workflow.yaml:1", "`title` is missing")),
        ("workflow", "label:", "rules: {}\nlabel:", ("workflow.yaml:20", "move it to rules.yaml")),
        ("workflow", "title: Holes", "title: Holes\ntitle: Holes",
         ("workflow.yaml:3", "`title` stands here again")),
        ("workflow", "title: Holes", "title: Holes\nfamily: lightgm",
         ("workflow.yaml:3",
          "`lightgm` is not one of xgboost, lightgbm, hist_gradient_boosting, ebm, best"
          "|did you mean `lightgbm`?")),
        ("workflow", "title: Holes", "title: Holes\nslices: [depht]",
         ("workflow.yaml:3", "unknown field `depht`|did you mean `depth`?")),
        ("workflow", "title: Holes", "title: Holes\nslices: [depth]",
         ("workflow.yaml:3", "`depth` is number and makes no slices")),
        # features
        ("features", "depth > 3", "depth > '3'", ("features.yaml:3", "NUMBER")),
        ("features", "hour(opened_at)", "remarks", ("features.yaml:2", "TEXT")),
        ("features", "hour(opened_at)", "{sql: depth, kind: category}",
         ("features.yaml:2", "TEXT")),
        ("features", "hour(opened_at)", "{sql: depth, kind: text}", ("features.yaml:2", "TEXT")),
        ("features", "hour(opened_at)", "{sql: remraks, kind: text}",
         ("features.yaml:2", "unknown field `remraks`|did you mean `remarks`?")),
        ("features", "hour(opened_at)", "{sql: remarks, kind: txt}",
         ("features.yaml:2", "`txt` is not one of number, category, text")),
        ("features", "depth > 3", "was_late",
         ("features.yaml:3", "`was_late` is known only after the fact")),
        ("features", "aggregate: count}", "aggregate: count, where: cost > 3}",
         ("features.yaml:5", "`cost` is known only after the fact")),
        ("features", "aggregate: count}", "aggregate: count, value: depth}",
         ("features.yaml:5", "`count` takes no `value`")),
        ("features", "aggregate: count}", "aggregate: open, on: closed}",
         ("features.yaml:5", "`open` takes no `on`")),
        ("features", "aggregate: count}", "aggregate: sum}",
         ("features.yaml:5", "`sum` needs `value`")),
        ("features", "aggregate: count}", "aggregate: cuont}",
         ("features.yaml:5", "`cuont` is not one of")),
        ("features", "entity: street, aggregate: count", "entity: stret, aggregate: count",
         ("features.yaml:5", "unknown entity `stret`|did you mean `street`?")),
        ("features", "aggregate: count}", "aggregate: count, window_days: 0}",
         ("features.yaml:5", "`window_days` should be greater than 0")),
        ("features", "> 3", "> 3\n  road: depth",
         ("features.yaml:4", "`road` is taken by `fields`")),
        # rules
        ("rules", "effect: floor, band: high", "effect: floor",
         ("rules.yaml:3", "a floor needs `band`")),
        ("rules", "effect: escalate", "effect: escalate\n    band: low",
         ("rules.yaml:9", "`escalate` takes no `band`")),
        ("rules", "effect: escalate", "effect: escalate\n    hard: true",
         ("rules.yaml:9", "`escalate` cannot be hard")),
        ("rules", "points: 25", "points: 0",
         ("rules.yaml:5", "`points` needs `points` other than 0")),
        ("rules", "valid_from: 2018-01-01", "valid_from: 2018-01-01\n    valid_to: 2017-01-01",
         ("rules.yaml:11", "`valid_to` is not after `valid_from`")),
        ("rules", "valid_from: 2018-01-01", "valid_from: soon",
         ("rules.yaml:10", "`valid_from` is not a timestamp")),
        ("rules", "when: deep_night", "when: hour_of_day", ("rules.yaml:7", "not BOOLEAN")),
        ("rules", "when: deep_night", "when: fixed_at IS NULL",
         ("rules.yaml:7", "`fixed_at` is known only after the fact")),
        ("rules", "when: deep_night", "wen: deep_night",
         ("rules.yaml:7", "unknown key `wen`|did you mean `when`?")),
        # examples
        ("examples", "band: high", "band: hihg", ("examples.yaml:5", "`hihg` is not one of")),
        ("examples", "rules: [highway, busy]", "rules: [highway, bsy]",
         ("examples.yaml:6", "unknown rule `bsy`|did you mean `busy`?")),
        ("examples", "road: highway", "road: higway",
         ("examples.yaml:3", "`road` `higway` is not an allowed value|did you mean `highway`?")),
        ("examples", "road: highway", "raod: highway",
         ("examples.yaml:3", "unknown field `raod`|did you mean `road`?")),
        ("examples", "opened_at: '2017-03-06T08:30:00', ", "",
         ("examples.yaml:3", "`opened_at` is required")),
        ("examples", "street_count: 3", "street_cuont: 3",
         ("examples.yaml:4",
          "unknown history feature `street_cuont`|did you mean `street_count`?")),
        ("examples", "street_count: 3", "street_count: 3.5",
         ("examples.yaml:4", "`street_count` must be an integer")),
        ("examples", "band: high", "band: critical",
         ("examples.yaml:5", "came out high, not critical: 25 points, fired: busy, highway")),
        ("examples", "rules: [highway, busy]", "rules: [highway, new-law]",
         ("examples.yaml:6", "did not fire: new-law; fired unexpectedly: busy")),
        ("examples", "band: high", "as_of: never\n    band: high",
         ("examples.yaml:5", "`as_of` is not a timestamp")),
    ],
)  # fmt: skip
def test_each_mistake_alone(
    tmp_path: Path, file: str, old: str, new: str, expected: tuple[str, str]
) -> None:
    text = {"workflow": WORKFLOW, "features": FEATURES, "rules": RULES, "examples": EXAMPLES}[file]
    assert old in text
    found = told(check(tmp_path, **{file: text.replace(old, new, 1)}))
    where, what = expected
    assert len(found) == 1, found
    assert found[0][0] == where
    assert what in found[0][1]


def test_a_mistake_in_a_folded_expression_has_its_own_line(tmp_path: Path) -> None:
    rules = """\
    rules:
      odd:
        when: >-
          road = 'highway'
          AND (depth > 3
               OR dpeth > 4)
        effect: escalate
        message: Odd.
    """
    checked = check(tmp_path, rules=rules, examples="examples: []")
    (mistake,) = checked.mistakes
    assert str(mistake.place) == "rules.yaml:6:15"
    assert mistake.hint == "did you mean `depth`?"


def test_a_mistaken_definition_is_not_told_again_where_it_is_read(tmp_path: Path) -> None:
    checked = check(tmp_path, features=FEATURES.replace("depth > 3", "dpeth > 3"))
    assert told(checked) == [("features.yaml:3", "unknown field `dpeth`|did you mean `depth`?")]


def test_a_mistake_does_not_hide_another_in_the_same_definition(tmp_path: Path) -> None:
    knobs = "knobs: {points: {medium: 9, high: 8, critical: 7}, audit_share: 2, uncertain_low: 0.5}"
    checked = check(
        tmp_path,
        workflow=WORKFLOW.replace("maturity_days: 7", "maturity_days: 1000000") + knobs,
        features=FEATURES.replace("is_deep: depth > 3", "is_deep: {sql: dpeth > 3, kind: nmber}"),
        rules=RULES.replace("effect: floor", "effect: flor").replace("depth >= 4", "cost >= 4"),
    )
    assert told(checked) == [
        ("features.yaml:3", "unknown field `dpeth`|did you mean `depth`?"),
        (
            "features.yaml:3",
            "`nmber` is not one of number, category, text|did you mean `number`?",
        ),
        (
            "rules.yaml:3",
            "`cost` is known only after the fact|use fields that are known when the ticket is "
            "submitted",
        ),
        (
            "rules.yaml:3",
            "`flor` is not one of floor, ceiling, points, escalate|did you mean `floor`?",
        ),
        ("workflow.yaml:20", "`maturity_days` should be less than or equal to 36525|"),
        ("workflow.yaml:21", "`points` must rise from medium over high to critical|"),
        ("workflow.yaml:21", "`audit_share` should be less than or equal to 1|"),
        ("workflow.yaml:21", "`uncertain_low` is above `uncertain_high`|"),
    ]


def test_knobs_that_are_compared_are_not_told_where_one_is_mistaken(tmp_path: Path) -> None:
    knobs = "knobs: {uncertain_low: 0.5, uncertain_high: 6}"
    assert told(check(tmp_path, workflow=WORKFLOW + knobs)) == [
        ("workflow.yaml:21", "`uncertain_high` should be less than or equal to 1|")
    ]


def test_history_defaults_to_nothing_known(tmp_path: Path) -> None:
    rules = """\
    rules:
      fresh: {when: street_count = 0, effect: points, points: 30, message: New.}
      unknown: {when: street_count IS NULL, effect: points, points: 60, message: Nowhere.}
      no-rate: {when: street_late IS NULL, effect: points, points: 1, message: No rate.}
    """
    examples = """\
    examples:
      - name: with a street
        fields: {opened_at: '2017-03-06T08:30:00', street: Main}
        band: medium
        rules: [fresh, no-rate]
      - name: without
        fields: {opened_at: '2017-03-06T08:30:00'}
        band: high
        rules: [unknown, no-rate]
    """
    assert told(check(tmp_path, rules=rules, examples=examples)) == []


def test_a_rule_in_time_is_examined_at_as_of(tmp_path: Path) -> None:
    examples = """\
    examples:
      - name: before
        as_of: 2017-12-31T23:59:59
        fields: {opened_at: '2017-03-06T03:30:00', depth: 5}
        band: low
        rules: []
      - name: after
        as_of: 2018-01-01
        fields: {opened_at: '2017-03-06T03:30:00', depth: 5}
        band: low
        rules: [new-law]
    """
    checked = check(tmp_path, examples=examples)
    assert told(checked) == []
    assert checked.unfired == ("highway", "busy")


def test_what_is_no_workflow(tmp_path: Path) -> None:
    assert told(check_folder(tmp_path / "none"))[0][0] == "workflow.yaml:1"
    assert "is not a folder" in told(check_folder(tmp_path / "none"))[0][1]
    assert "there is no such file" in told(check_folder(tmp_path))[0][1]
    (tmp_path / "workflow.yaml").write_bytes(b"\xff")
    assert [m.code for m in check_folder(tmp_path).mistakes] == ["invalid_utf8"]


def test_a_file_of_another_name_is_told(tmp_path: Path) -> None:
    check(tmp_path)
    (tmp_path / "rule.yml").write_text("rules: {}")
    assert told(check_folder(tmp_path)) == [
        ("rule.yml:1", "is no file of a workflow|did you mean `rules.yaml`?")
    ]


@pytest.mark.parametrize("name", sorted(p.name for p in Path("workflows").iterdir()))
def test_the_workflows_that_ship_are_sound(name: str) -> None:
    checked = check_folder(Path("workflows") / name)
    assert told(checked) == []
    assert checked.workflow.name == name
    assert checked.unfired == ()
