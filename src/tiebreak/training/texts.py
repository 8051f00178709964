"""Learns what the words of a text tell of the label: regularised logistic regression.

The trees see a text as its score. The score of a training row comes from a model that was fitted
without the row's fifth of the time, or the trees would trust words that were learnt by heart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse as scipy_sparse
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from tiebreak.core.features import FeaturePlan
from tiebreak.core.text import TextScore, packed
from tiebreak.core.text_kernels import hash_ngrams
from tiebreak.training.dataset import Snapshot

SMALLEST_NGRAM = 20  # texts that an n-gram must stand in; rarer ones are left out
MOST_NGRAMS = 50_000  # the most frequent ones
FIFTHS = 5
CHUNK = 50_000  # texts hashed together, for the sake of memory
_STRENGTH = 1.0  # of what the rows say against weights of 0, measured: see ADR 0009
_ITERATIONS = 200

sparse: Any = scipy_sparse  # it comes without types
Matrix = Any
Counts = tuple[NDArray[np.uint64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class LearntText:
    """What is served of a text feature, and the scores (n,) by which training rows train."""

    score: TextScore
    out_of_fold: NDArray[np.float64]


def learn_texts(training: Snapshot) -> Mapping[str, LearntText]:
    """Each text feature of the snapshot, learnt from its rows, by name."""
    kinds = FeaturePlan(training.workflow).kinds()
    moments = training.as_of.to_physical().to_numpy()
    return {
        name: learn_text(training.frame[name], training.targets, training.row_weights, moments)
        for name, kind in kinds.items()
        if kind == "text"
    }


def learn_text(
    texts: pl.Series,
    y: NDArray[np.float32],
    weights: NDArray[np.float64],
    moments: NDArray[np.int64],
) -> LearntText:
    """What texts (n,) String tell of targets y (n,); the same input gives the same bits.

    Known are the words and pairs of words that stand in at least SMALLEST_NGRAM texts, but not
    in all of them.
    """
    keys, scales = _vocabulary(texts)
    is_given = texts.is_not_null().to_numpy()
    x = _matrix(texts, keys, scales)
    fifths = np.empty(len(texts), dtype=np.int64)
    fifths[np.argsort(moments, kind="stable")] = np.arange(len(texts)) * FIFTHS // len(texts)
    out_of_fold = np.empty(len(texts), dtype=np.float64)

    def learnt(rows: NDArray[np.bool_]) -> TextScore:
        base, coefficients = _fit(x[rows], y[rows], weights[rows])
        return TextScore(base, keys, scales, (scales * coefficients).astype(np.float32))

    score = learnt(is_given)
    for fifth in range(FIFTHS):
        is_in = fifths == fifth
        # one base for all: each fifth's own would tell the trees the rate of the others
        others = replace(learnt(~is_in & is_given), base=score.base)
        out_of_fold[is_in] = others.scores(texts.filter(pl.Series(is_in)))
    return LearntText(score, out_of_fold)


def _vocabulary(texts: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Hashes of the known n-grams (K,), ascending, and their inverse document frequencies."""
    keys, frequencies = reduce(_merged, (_document_counts(part) for part in _chunks(texts)))
    tells = (frequencies >= SMALLEST_NGRAM) & (frequencies < len(texts) - texts.null_count())
    keys, frequencies = keys[tells], frequencies[tells]
    kept = np.sort(np.argsort(-frequencies, kind="stable")[:MOST_NGRAMS])
    scales = np.log((1.0 + len(texts)) / (1.0 + frequencies[kept])) + 1.0
    return keys[kept], scales.astype(np.float32)


def _matrix(texts: pl.Series, keys: NDArray[np.uint64], scales: NDArray[np.float32]) -> Matrix:
    """The texts' vectors (n, K) as `core.text` makes them, without the division by length 0."""
    return sparse.vstack([_vectors(part, keys, scales) for part in _chunks(texts)], format="csr")


def _vectors(texts: pl.Series, keys: NDArray[np.uint64], scales: NDArray[np.float32]) -> Matrix:
    rows, found, times = _counted(texts)
    places = np.searchsorted(keys, found)
    is_known = places < len(keys)
    is_known[is_known] = keys[places[is_known]] == found[is_known]
    rows, places, times = rows[is_known], places[is_known], times[is_known]
    values = scales[places].astype(np.float64) * np.sqrt(times)
    lengths = np.sqrt(np.bincount(rows, weights=values * values, minlength=len(texts)))
    starts = np.searchsorted(rows, np.arange(len(texts) + 1))
    return sparse.csr_array((values / lengths[rows], places, starts), shape=(len(texts), len(keys)))


def _counted(
    texts: pl.Series,
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """The different n-grams of each text: which text, hash, times; by text, then hash."""
    found, starts = hash_ngrams(*packed(texts))
    rows = np.repeat(np.arange(len(texts)), np.diff(starts))
    order = np.lexsort((found, rows))
    found, rows = found[order], rows[order]
    is_first = np.ones(len(found), dtype=np.bool_)
    is_first[1:] = (found[1:] != found[:-1]) | (rows[1:] != rows[:-1])
    at = np.flatnonzero(is_first)
    return rows[at], found[at], np.diff(np.append(at, len(found)))


def _document_counts(texts: pl.Series) -> Counts:
    _, found, _ = _counted(texts)
    keys, frequencies = np.unique(found, return_counts=True)
    return keys, frequencies.astype(np.int64)


def _merged(one: Counts, other: Counts) -> Counts:
    keys, inverse = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    frequencies = np.zeros(len(keys), dtype=np.int64)
    np.add.at(frequencies, inverse, np.concatenate([one[1], other[1]]))
    return keys, frequencies


def _chunks(texts: pl.Series) -> list[pl.Series]:
    return [texts.slice(start, CHUNK) for start in range(0, max(len(texts), 1), CHUNK)]


def _fit(
    x: Matrix, y: NDArray[np.float32], weights: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Log-odds of a text without known n-grams, and what each n-gram adds (K,)."""
    width = int(x.shape[1])
    positives = float((weights * y).sum())
    negatives = float(weights.sum()) - positives
    if not width or min(positives, negatives) <= 0.0:
        return float(np.log((positives + 0.5) / (negatives + 0.5))), np.zeros(width)
    regression: Any = LogisticRegression(C=_STRENGTH, max_iter=_ITERATIONS)
    with threadpool_limits(limits=1):  # more threads add in another order: other bits
        regression.fit(x, y, sample_weight=weights)
    return float(regression.intercept_[0]), np.asarray(regression.coef_[0], dtype=np.float64)
