"""The caged process that opens one legacy model: `python -m tiebreak.training.legacy.child`.

It reads the file's bytes from standard input, locks itself in, unpickles them once, writes what
the model is as plain JSON, and then answers rows with the model's own probabilities. Each message
is eight bytes of length and JSON (the first one the file). It is given no secret: what it writes
is checked by its parent like any input from outside.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, BinaryIO

import numpy as np
import orjson

from tiebreak.training.legacy import opening
from tiebreak.training.legacy.cage import CageMissing, lock
from tiebreak.training.legacy.refusals import Refused
from tiebreak.training.legacy.shapes import Described, describe, warm

LONGEST_REASON = 300


def main() -> None:
    """Open the model of standard input and answer until it is closed."""
    warnings.simplefilter("ignore")
    source, out = sys.stdin.buffer, sys.stdout.buffer
    data = receive(source)
    warm()
    try:
        lock()
    except CageMissing as error:
        _answer(out, {"no_cage": error.hint})
        return
    try:
        model = opening.read(data)
        described = describe(model)
    except Refused as error:
        _answer(out, {"refused": str(error)[:LONGEST_REASON]})
        return
    except Exception as error:  # noqa: BLE001 - whatever a foreign pickle raises
        _answer(out, {"refused": f"{type(error).__name__}: {error}"[:LONGEST_REASON]})
        return
    _answer(out, described.listed)
    while rows := receive(source):
        _answer(out, {"scores": _scores(described, orjson.loads(rows))})


def receive(source: BinaryIO) -> bytes:
    """The next message; empty at the end."""
    return source.read(int.from_bytes(source.read(8), "big"))


def _scores(described: Described, columns: list[list[Any]]) -> list[float] | str:
    """Probabilities of the positive class, or what the model says against these rows."""
    has_text = any(isinstance(cell, str) for column in columns for cell in column)
    rows = np.empty((len(columns[0]), len(columns)), dtype=object if has_text else np.float64)
    for place, column in enumerate(columns):
        rows[:, place] = [np.nan if cell is None else cell for cell in column]
    try:
        return np.asarray(described.score(rows), dtype=np.float64).tolist()
    except Exception as error:  # noqa: BLE001 - whatever a foreign model raises
        return f"{type(error).__name__}: {error}"[:LONGEST_REASON]


def _answer(out: BinaryIO, told: object) -> None:
    data = orjson.dumps(told)
    out.write(len(data).to_bytes(8, "big") + data)
    out.flush()


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing is left to be done, and libraries may not do it
