"""What a text tells, as one number: a linear score over hashed words and pairs of words.

    score = base + sum_g weight_g * sqrt(n_g) / sqrt(sum_g scale_g^2 * n_g)

over the known n-grams g of a text, n_g the times it stands in the text; `weight` is the learnt
log-odds x `scale`, `scale` the n-gram's inverse document frequency, and the divisor the length of
the text's vector. Only + x / and sqrt stand between a text and its score, in one order, so the
bits are the same in every batch and on every CPU.

The n-grams are held as hashes: no text of a ticket is in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.text_kernels import (
    MAX_BYTES,
    MOST_WORDS,
    index_keys,
    pair_hash,
    score_texts,
    split_words,
)
from tiebreak.errors import IntegrityFailure

_DTYPES = {"keys": "<u8", "scales": "<f4", "weights": "<f4"}


class TextScoreMalformed(IntegrityFailure):
    """The table of a text's n-grams contradicts itself."""

    code = "text_score_malformed"


@dataclass(frozen=True, slots=True)
class WordPart:
    """A word as the text writes it first, and what it adds to the text's score."""

    word: str
    part: float


@dataclass(frozen=True, eq=False)
class TextScore:
    """The known n-grams of a text feature, K of them, and the score of a text without any.

    keys: (K,) hashes of words and pairs of neighbouring words, ascending.
    scales: (K,) positive. weights: (K,) in log-odds x scale.
    """

    base: float
    keys: NDArray[np.uint64]
    scales: NDArray[np.float32]
    weights: NDArray[np.float32]

    def scores(self, texts: pl.Series) -> NDArray[np.float64]:
        """The scores (n,) in log-odds of texts (n,) String, NaN where null.

        Of a text the first 4,096 bytes of UTF-8 count. A score's bits do not depend on the other
        texts.
        """
        data, bounds = packed(texts)
        out = np.empty(len(texts), dtype=np.float64)
        score_texts(data, bounds, self.keys, self._slots, self.scales, self.weights, self.base, out)
        if texts.null_count():
            out[texts.is_null().to_numpy()] = np.nan
        return out

    def parts(self, text: str) -> list[WordPart]:
        """The text's different words, largest part first; with `base` they add up to its score.

        A pair's part goes to its two words in halves. Words without any part are left out.
        """
        encoded = text.encode()[:MAX_BYTES]
        starts, ends = np.empty(MOST_WORDS, np.int64), np.empty(MOST_WORDS, np.int64)
        hashes = np.empty(MOST_WORDS, np.uint64)
        data = np.frombuffer(encoded, dtype=np.uint8)
        count = split_words(data, 0, len(data), starts, ends, hashes)  # pyright: ignore[reportArgumentType]
        grams = [((word,), hashes[word]) for word in range(count)]
        grams += [((w - 1, w), pair_hash(hashes[w - 1], hashes[w])) for w in range(1, count)]
        known = [(words, place) for words, key in grams if (place := self._place(key)) is not None]
        times = np.bincount([place for _, place in known], minlength=1)
        at = np.flatnonzero(times)
        length = float(np.sqrt((self.scales[at].astype(np.float64) ** 2 * times[at]).sum()))
        added: dict[int, float] = {}
        written: dict[int, str] = {}
        for words, place in known:
            share = float(self.weights[place]) / float(np.sqrt(times[place])) / length / len(words)
            for word in words:
                same = int(hashes[word])
                added[same] = added.get(same, 0.0) + share
                as_written = encoded[starts[word] : ends[word]].decode(errors="ignore")
                written.setdefault(same, as_written)
        parts = [WordPart(written[same], part) for same, part in added.items()]
        return sorted(parts, key=lambda each: -abs(each.part))

    def dump(self) -> bytes:
        """The table as bytes: one line of JSON, then keys, scales and weights."""
        head = orjson.dumps({"base": self.base, "count": len(self.keys)})
        arrays: Sequence[NDArray[Any]] = (self.keys, self.scales, self.weights)
        return head + b"\n" + b"".join(array.tobytes() for array in arrays)

    @classmethod
    def load(cls, data: bytes) -> TextScore:
        """The table in `data`; TextScoreMalformed."""
        try:
            score = cls._parse(data)
        except (ValueError, KeyError, TypeError) as error:
            raise TextScoreMalformed(hint=str(error)) from error
        is_sound = (
            np.isfinite(score.base)
            and np.isfinite(score.weights).all()
            and np.isfinite(score.scales).all()
            and (score.scales > 0).all()
            and (score.keys[1:] > score.keys[:-1]).all()
        )
        if not is_sound:
            raise TextScoreMalformed
        return score

    @classmethod
    def _parse(cls, data: bytes) -> TextScore:
        offset = data.index(b"\n") + 1
        head: dict[str, Any] = orjson.loads(data[: offset - 1])
        count = int(head["count"])
        arrays: dict[str, Any] = {}
        for name, dtype in _DTYPES.items():
            array = np.frombuffer(data, dtype=dtype, count=count, offset=offset)
            offset += array.nbytes
            # a copy, because the kernels are compiled for aligned arrays
            arrays[name] = array.copy()
        if count < 0 or offset != len(data):
            raise ValueError("the table is of another size")
        return cls(float(head["base"]), **arrays)

    @cached_property
    def _slots(self) -> NDArray[np.int32]:
        slots = np.empty(1 << (2 * len(self.keys) + 1).bit_length(), dtype=np.int32)
        index_keys(self.keys, slots)
        return slots

    def _place(self, key: np.uint64) -> int | None:
        place = int(np.searchsorted(self.keys, key))
        return place if place < len(self.keys) and self.keys[place] == key else None


def packed(texts: pl.Series) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The texts' first bytes behind each other, and where each begins (n + 1,); null is empty."""
    parts = [b"" if text is None else text.encode()[:MAX_BYTES] for text in texts.to_list()]
    bounds = np.array([0, *accumulate(map(len, parts))], dtype=np.int64)
    return np.frombuffer(b"".join(parts), dtype=np.uint8), bounds
