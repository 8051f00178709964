"""What reviewers' words come to, and how much a reviewed ticket counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tiebreak.core.workflow import Label
from tiebreak.training.reviews import MOST_WEIGHT, Verdict, Word, verdict, weight

START = datetime(2026, 3, 1, tzinfo=UTC)


def at(day: int) -> datetime:
    return START + timedelta(days=day)


def words(text: str) -> list[Word]:
    """`bad good lead:bad`: one word a day, each by another reviewer."""
    return [
        Word(f"r{day}", said.endswith("bad"), at(day), said.startswith("lead"))
        for day, said in enumerate(text.split())
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", None),
        ("bad", Verdict(True, at(0), False)),
        ("good", Verdict(False, at(0), False)),
        ("bad good", None),
        ("bad bad", Verdict(True, at(1), True)),
        ("good good", Verdict(False, at(1), True)),
        ("bad good bad", Verdict(True, at(2), True)),
        ("bad bad good", Verdict(True, at(2), True)),
        ("bad good good bad good", Verdict(False, at(4), True)),
        ("bad bad bad", Verdict(True, at(1), True)),
        ("bad bad good good", None),
        ("lead:good", Verdict(False, at(0), True)),
        ("bad bad lead:good bad", Verdict(False, at(2), True)),
        ("lead:good bad lead:bad", Verdict(True, at(2), True)),
    ],
)
def test_what_words_come_to(said: str, expected: Verdict | None) -> None:
    assert verdict(words(said)) == expected
    assert verdict(reversed(words(said))) == expected


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(1.0, 1.0), (0.5, 2.0), (0.1, 10.0), (0.01, MOST_WEIGHT), (0.0, 1.0), (None, 1.0)],
)
def test_what_is_seldom_reviewed_counts_more_up_to_a_cap(
    probability: float | None, expected: float
) -> None:
    assert weight(probability) == expected


def test_a_label_as_it_was_before_precedence_keeps_its_name() -> None:
    before = {"name": "damage", "sql": "damaged", "maturity_days": 30.0, "absent": "unknown"}
    label = Label(name="damage", sql="damaged", maturity_days=30)
    assert label.model_dump(mode="json") == before
    other = label.model_copy(update={"precedence": ("outcome", "review"), "review_from": "medium"})
    told = other.model_dump(mode="json")
    assert told == before | {"precedence": ["outcome", "review"], "review_from": "medium"}
    assert Label.model_validate_json(other.model_dump_json()) == other
