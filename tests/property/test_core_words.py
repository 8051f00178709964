"""Texts → scores: the compiled loops against the same definition written plainly in Python."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tiebreak.core.text import TextScore, packed
from tiebreak.core.text_kernels import MAX_BYTES, hash_ngrams

MASK = 2**64 - 1
TEXTS = st.lists(
    st.none()
    | st.text(max_size=60)
    | st.lists(st.sampled_from(["a", "B", "é"]), max_size=12).map(" ".join)
    | st.text(alphabet="aAbB zZ09.-'éÉ×÷ßÞÿ«\u00a0’—\u206f\u2070\u303f\u3040漢😀", max_size=60),
    min_size=1,
    max_size=20,
)


def mixed(value: int) -> int:
    value = (value ^ (value >> 33)) * 0xFF51AFD7ED558CCD & MASK
    value = (value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ (value >> 33)


def is_word_character(character: str) -> bool:
    code = ord(character)
    if code < 0x80:
        return character.isalnum()
    return not (0x80 <= code < 0xC0 or 0x2000 <= code < 0x2070 or 0x3000 <= code < 0x3040)


def folded(character: str) -> str:
    code = ord(character)
    if "0" <= character <= "9":
        return "0"
    if "A" <= character <= "Z" or (0xC0 <= code <= 0xDE and code != 0xD7):
        return chr(code + 0x20)
    return character


def words_of(text: str) -> list[str]:
    words: list[str] = []
    is_inside = False
    for character in text:
        if is_word_character(character):
            words += [] if is_inside else [""]
            words[-1] += folded(character)
            is_inside = True
        else:
            is_inside = False
    return words


def ngrams_of(text: str) -> list[int]:
    hashes: list[int] = []
    for word in words_of(text):
        state = 0xCBF29CE484222325
        for byte in word.encode():
            state = (state ^ byte) * 0x100000001B3 & MASK
        hashes.append(mixed(state))
    pairs = [first * 0x9E3779B97F4A7C15 + second & MASK for first, second in pairwise(hashes)]
    return hashes + [mixed(pair) for pair in pairs]


def score_of(texts: list[str | None], share: float, seed: int = 0) -> TextScore:
    """A score that knows a share of the texts' n-grams."""
    random = np.random.default_rng(seed)
    found = sorted({gram for text in texts if text for gram in ngrams_of(text)})
    keys = np.array([gram for gram in found if random.random() < share], dtype=np.uint64)
    return TextScore(
        base=-0.75,
        keys=keys,
        scales=random.uniform(0.5, 9.0, len(keys)).astype(np.float32),
        weights=random.normal(size=len(keys)).astype(np.float32),
    )


def expected(score: TextScore, text: str | None) -> float:
    if text is None:
        return math.nan
    places = {int(key): place for place, key in enumerate(score.keys)}
    times = Counter(places[gram] for gram in ngrams_of(text) if gram in places)
    total = math.fsum(float(score.weights[p]) * math.sqrt(n) for p, n in times.items())
    squares = math.fsum(float(score.scales[p]) ** 2 * n for p, n in times.items())
    return score.base + (total / math.sqrt(squares) if times else 0.0)


@settings(deadline=None)
@given(TEXTS)
@example(["", " ", "a", "É", "\u00d7\u00d7", None, "x" * 59])
def test_words_and_pairs_are_those_of_the_definition(texts: list[str | None]) -> None:
    hashes, starts = hash_ngrams(*packed(pl.Series(texts, dtype=pl.String)))
    for row, text in enumerate(texts):
        assert hashes[starts[row] : starts[row + 1]].tolist() == ngrams_of(text or "")


@settings(deadline=None)
@given(TEXTS, st.sampled_from([0.0, 0.3, 1.0]))
def test_scores_and_parts_are_those_of_the_definition(
    texts: list[str | None], share: float
) -> None:
    score = score_of(texts, share)
    found = score.scores(pl.Series(texts, dtype=pl.String))
    for text, value in zip(texts, found.tolist(), strict=True):
        assert value == pytest.approx(expected(score, text), abs=1e-9, nan_ok=True)
        if text is not None:
            parts = score.parts(text)
            assert score.base + sum(each.part for each in parts) == pytest.approx(value, abs=1e-9)
            assert all(each.word in text for each in parts)
            sizes = [abs(each.part) for each in parts]
            assert sizes == sorted(sizes, reverse=True)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 7), st.randoms(use_true_random=False))
def test_bits_do_not_depend_on_batch_or_order(texts: list[str | None], size: int, random) -> None:
    score = TextScore.load(score_of(texts, 0.7).dump())
    column = pl.Series(texts, dtype=pl.String)
    whole = score.scores(column)
    parts = [score.scores(column[at : at + size]) for at in range(0, len(texts), size)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    order = list(range(len(texts)))
    random.shuffle(order)
    assert score.scores(column.gather(order)).tobytes() == whole[order].tobytes()


@settings(deadline=None, max_examples=20)
@given(st.text(alphabet="abé 漢.", min_size=1, max_size=9))
def test_only_the_first_bytes_of_a_text_are_read(start: str) -> None:
    text = start + " ab" * 2 * MAX_BYTES
    cut = text.encode()[:MAX_BYTES].decode(errors="ignore")
    score = score_of([cut], 1.0)
    found = score.scores(pl.Series([text, cut]))
    assert found[0] == pytest.approx(expected(score, cut), abs=1e-9)
    assert found[0] == found[1]
