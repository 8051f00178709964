"""What is learnt of texts: the words that tell, nothing by heart, and none of the text itself."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from tiebreak.training.evaluate import roc_auc
from tiebreak.training.texts import LearntText, learn_text

ROWS = 2_000
FILLERS = ("please", "come", "soon", "the", "road", "by", "our", "house")
SECRET = "Zebrastreifen"


def learn(
    texts: list[str | None], y: NDArray[np.bool_], moments: NDArray[np.int64] | None = None
) -> LearntText:
    when = np.arange(len(texts)) if moments is None else moments
    column = pl.Series(texts, dtype=pl.String)
    return learn_text(column, y.astype(np.float32), np.ones(len(texts)), when)


def score_of(learnt: LearntText, text: str) -> float:
    return float(learnt.score.scores(pl.Series([text]))[0])


@pytest.fixture(scope="module")
def said() -> tuple[list[str | None], NDArray[np.bool_]]:
    """Texts in which `gas leak` ends badly, while `gas` or `leak` alone does not; some missing."""
    random = np.random.default_rng(3)
    texts: list[str | None] = []
    for _ in range(ROWS):
        words = list(random.choice(FILLERS, 5))
        told = random.choice(["gas leak", "leak gas", ""])
        texts.append(None if random.random() < 0.05 else " ".join([*words, told, SECRET]))
    is_bad = np.array([text is not None and "gas leak" in text for text in texts])
    return texts, np.where(is_bad, random.random(ROWS) < 0.7, random.random(ROWS) < 0.1)


def test_words_and_pairs_that_tell_are_learnt(said: tuple[list[str | None], NDArray]) -> None:
    learnt = learn(*said)
    bad, good = score_of(learnt, "a GAS leak on the road"), score_of(learnt, "leak gas by our road")
    assert bad > 0 > good
    assert {each.word for each in learnt.score.parts("a gas leak, please")[:2]} == {"gas", "leak"}
    missing = np.array([text is None for text in said[0]])
    assert (np.isnan(learnt.out_of_fold) == missing).all()
    ranked = roc_auc(learnt.out_of_fold[~missing], said[1][~missing] * 1.0, np.ones(ROWS)[~missing])
    assert ranked > 0.75


def test_the_same_input_gives_the_same_bits(said: tuple[list[str | None], NDArray]) -> None:
    one, other = learn(*said), learn(*said)
    assert one.score.dump() == other.score.dump()
    assert one.out_of_fold.tobytes() == other.out_of_fold.tobytes()


def test_the_table_holds_no_word_and_no_rare_one(said: tuple[list[str | None], NDArray]) -> None:
    data = learn(*said).score.dump()
    assert SECRET.encode() not in data
    assert SECRET.lower().encode() not in data
    rare = [f"{text} once{i}er" if i < 19 else text for i, text in enumerate(said[0])]
    assert len(learn(rare, said[1]).score.keys) == len(learn(*said).score.keys)


def test_training_rows_are_not_scored_by_what_was_learnt_of_them() -> None:
    random = np.random.default_rng(4)
    words = [f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(400)]
    texts: list[str | None] = [" ".join(random.choice(words, 30)) for _ in range(ROWS)]
    y = random.random(ROWS) < 0.5  # the words tell nothing
    learnt = learn(texts, y)
    by_heart = learnt.score.scores(pl.Series(texts))
    ones = np.ones(ROWS)
    assert roc_auc(by_heart, y * 1.0, ones) > 0.7
    assert 0.45 < roc_auc(learnt.out_of_fold, y * 1.0, ones) < 0.55


def test_a_row_is_scored_without_its_fifth_of_the_time() -> None:
    """A word that turns bad only in the last fifth of the time is not known there."""
    random = np.random.default_rng(5)
    moments = random.permutation(ROWS)
    is_last = moments >= ROWS * 4 // 5
    texts: list[str | None] = [random.choice(["a b", "a c"]) for _ in range(ROWS)]
    is_c = np.array([text == "a c" for text in texts])
    learnt = learn(texts, is_c & is_last | (random.random(ROWS) < 0.2), moments)
    assert score_of(learnt, "a c") - score_of(learnt, "a b") > 0.5
    spread = learnt.out_of_fold[is_last & is_c].mean() - learnt.out_of_fold[is_last & ~is_c].mean()
    assert abs(spread) < 0.3


@pytest.mark.parametrize("text", ["the same everywhere", "", None])
def test_texts_that_do_not_differ_tell_nothing(text: str | None) -> None:
    y = np.arange(400) < 300  # the rate differs from fifth to fifth
    learnt = learn([text] * 400, y)
    expected = np.nan if text is None else learnt.score.base
    np.testing.assert_array_equal(learnt.out_of_fold, np.full(400, expected))


def test_a_fifth_whose_others_hold_one_class_is_scored_all_the_same() -> None:
    texts: list[str | None] = ["odd" if i % 2 else "even" for i in range(400)]
    learnt = learn(texts, np.arange(400) < 60)
    assert np.isfinite(learnt.out_of_fold).all()
