"""The compiled loops of `core.text`: UTF-8 bytes → words → places of known n-grams → scores.

This is the only tokenizer: training and serving call the same loops. A word is a longest run of
ASCII letters and digits and of characters beyond ASCII, save the punctuation of Latin-1
(U+0080-00BF), of U+2000-206F and of U+3000-303F. A-Z and the Latin-1 letters À-Þ become lower
case, every ASCII digit becomes 0; any other character counts as it is written.

Hashes are 64-bit FNV-1a, finished as MurmurHash3 finishes. All of them are unsigned, since a
signed number would turn them into floats. No fast math, no threads.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 4096  # of a text; what follows is not read
MOST_WORDS = MAX_BYTES // 2 + 1

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX_1, _MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_GOLDEN, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(33)


@numba.njit(cache=True, nogil=True, inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _HALF)) * _MIX_1
    value = (value ^ (value >> _HALF)) * _MIX_2
    return value ^ (value >> _HALF)


@numba.njit(cache=True, nogil=True)
def pair_hash(first: np.uint64, second: np.uint64) -> np.uint64:
    """The hash of two words in this order."""
    return _mixed(first * _GOLDEN + second)


@numba.njit(cache=True, nogil=True)
def split_words(
    data: NDArray[np.uint8],
    start: np.int64,
    end: np.int64,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    hashes: NDArray[np.uint64],
) -> int:
    """Finds the words in data[start:end]: where each stands, and its hash; gives their number.

    `starts`, `ends` and `hashes` are (MOST_WORDS,) and filled from the front.
    """
    count = 0
    end = min(end, start + MAX_BYTES)
    state = _OFFSET
    is_inside = False
    position = start
    while position < end:
        byte = data[position]
        is_digit = 0x30 <= byte <= 0x39
        is_upper = 0x41 <= byte <= 0x5A
        width = 1
        if byte < 0x80:
            is_word = is_digit or is_upper or 0x61 <= byte <= 0x7A
        else:
            width = 2 if byte < 0xE0 else (3 if byte < 0xF0 else 4)
            second = data[position + 1] if position + 1 < end else np.uint8(0x80)
            third = data[position + 2] if position + 2 < end else np.uint8(0x80)
            is_word = not (
                byte == 0xC2
                or (byte == 0xE2 and (second == 0x80 or (second == 0x81 and third < 0xB0)))
                or (byte == 0xE3 and second == 0x80)
            )
        if is_word:
            if not is_inside:
                is_inside = True
                state = _OFFSET
                starts[count] = position
            for place in range(position, min(position + width, end)):
                folded = data[place]
                if width == 1:
                    if is_digit:
                        folded = np.uint8(0x30)
                    elif is_upper:
                        folded = np.uint8(folded + 0x20)
                elif byte == 0xC3 and place > position and folded <= 0x9E and folded != 0x97:
                    folded = np.uint8(folded + 0x20)
                state = (state ^ np.uint64(folded)) * _PRIME
        elif is_inside:
            is_inside = False
            ends[count] = position
            hashes[count] = _mixed(state)
            count += 1
        position += width
    if is_inside:
        ends[count] = end
        hashes[count] = _mixed(state)
        count += 1
    return count


@numba.njit(cache=True)
def hash_ngrams(
    data: NDArray[np.uint8], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all words and pairs of neighbours of texts, and where each text's begin (n + 1,).

    Text i is data[bounds[i]:bounds[i + 1]].
    """
    starts, ends = np.empty(MOST_WORDS, np.int64), np.empty(MOST_WORDS, np.int64)
    words = np.empty(MOST_WORDS, np.uint64)
    rows = np.zeros(len(bounds), np.int64)
    for row in range(len(bounds) - 1):
        count = split_words(data, bounds[row], bounds[row + 1], starts, ends, words)
        rows[row + 1] = rows[row] + max(2 * count - 1, 0)
    found = np.empty(rows[-1], np.uint64)
    for row in range(len(bounds) - 1):
        count = split_words(data, bounds[row], bounds[row + 1], starts, ends, words)
        place = rows[row]
        for word in range(count):
            found[place + word] = words[word]
        for word in range(1, count):
            found[place + count + word - 1] = pair_hash(words[word - 1], words[word])
    return found, rows


@numba.njit(cache=True)
def index_keys(keys: NDArray[np.uint64], slots: NDArray[np.int32]) -> None:
    """Fills `slots` (a power of two, at least twice the keys), so that `find_places` finds keys."""
    slots[:] = -1
    mask = np.uint64(len(slots) - 1)
    for place in range(len(keys)):
        slot = keys[place] & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = place


@numba.njit(cache=True, nogil=True)
def _look_up(key: np.uint64, keys: NDArray[np.uint64], slots: NDArray[np.int32]) -> np.int32:
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot] >= 0:
        if keys[slots[slot]] == key:
            return slots[slot]
        slot = (slot + np.uint64(1)) & mask
    return np.int32(-1)


@numba.njit(cache=True, nogil=True)
def score_texts(
    data: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    keys: NDArray[np.uint64],
    slots: NDArray[np.int32],
    scales: NDArray[np.float32],
    weights: NDArray[np.float32],
    base: float,
    out: NDArray[np.float64],
) -> None:
    """Writes each text's score to `out` (n,); see `core.text.TextScore`.

    Known n-grams are added in the order of their places, whatever the order of the words.
    """
    starts, ends = np.empty(MOST_WORDS, np.int64), np.empty(MOST_WORDS, np.int64)
    words = np.empty(MOST_WORDS, np.uint64)
    places = np.empty(2 * MOST_WORDS, np.int32)
    for row in range(len(bounds) - 1):
        count = split_words(data, bounds[row], bounds[row + 1], starts, ends, words)
        known = 0
        for word in range(count):
            places[known] = _look_up(words[word], keys, slots)
            known += places[known] >= 0
            if word > 0:
                places[known] = _look_up(pair_hash(words[word - 1], words[word]), keys, slots)
                known += places[known] >= 0
        places[:known].sort()
        total, squares = 0.0, 0.0
        first = 0
        while first < known:
            place = places[first]
            last = first + 1
            while last < known and places[last] == place:
                last += 1
            times = np.float64(last - first)
            scale = np.float64(scales[place])
            total += np.float64(weights[place]) * np.sqrt(times)
            squares += scale * scale * times
            first = last
        out[row] = base + total / np.sqrt(squares) if known else base
