"""The table of a text's n-grams: what it takes for a word, and what it refuses to load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tiebreak.core.text import TextScore, TextScoreMalformed, packed
from tiebreak.core.text_kernels import hash_ngrams


def hashes(text: str) -> list[int]:
    return hash_ngrams(*packed(pl.Series([text])))[0].tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Gas LEAK", "gas leak"),
        ("gas,leak!", "(gas) “leak”…"),
        ("Ärger in Öland", "ärger in öland"),
        ("call 617-555-0100", "call 000-000-0000"),
        ("don't", "don t"),
        ("a\u00a0b", "a b"),
    ],
)
def test_texts_that_are_the_same_words(one: str, other: str) -> None:
    assert hashes(one) == hashes(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("gas leak", "leak gas"), ("gasleak", "gas leak"), ("ДОМ", "дом"), ("e", "é")],
)
def test_texts_that_are_other_words(one: str, other: str) -> None:
    assert sorted(hashes(one)) != sorted(hashes(other))


def sound() -> TextScore:
    keys = np.array(sorted(hashes("gas leak on the street")), dtype=np.uint64)
    ones = np.ones(len(keys), dtype=np.float32)
    return TextScore(base=0.5, keys=keys, scales=ones, weights=ones)


def test_a_table_reads_back_as_it_was_written() -> None:
    data = sound().dump()
    assert TextScore.load(data).dump() == data
    texts = pl.Series(["gas", None, "leak on", ""])
    assert TextScore.load(data).scores(texts).tobytes() == sound().scores(texts).tobytes()


def test_a_text_without_known_words_has_the_base_and_no_parts() -> None:
    assert sound().scores(pl.Series(["Vogel", ""])).tolist() == [0.5, 0.5]
    assert sound().parts("Vogel") == sound().parts("") == []


def test_no_texts_have_no_scores() -> None:
    assert sound().scores(pl.Series([], dtype=pl.String)).shape == (0,)


@pytest.mark.parametrize(
    "change",
    [
        {"base": float("inf")},
        {"scales": np.zeros(9, dtype=np.float32)},
        {"scales": np.full(9, np.nan, dtype=np.float32)},
        {"weights": np.full(9, np.inf, dtype=np.float32)},
        {"keys": np.zeros(9, dtype=np.uint64)},
        {"keys": np.arange(9, dtype=np.uint64)[::-1].copy()},
        {"weights": np.ones(8, dtype=np.float32)},
        {"weights": np.ones(10, dtype=np.float32)},
    ],
    ids=lambda change: " ".join(change),
)
def test_a_table_that_contradicts_itself_does_not_load(change: dict[str, Any]) -> None:
    data = replace(sound(), **change).dump()
    with pytest.raises(TextScoreMalformed):
        TextScore.load(data)


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b'{"base": 1, "count": -1}\n', b"[1]\n"])
def test_what_is_no_table_does_not_load(data: bytes) -> None:
    with pytest.raises(TextScoreMalformed):
        TextScore.load(data)
