"""A legacy model in its cage, seen from outside: verified first, then asked.

Only bytes whose HMAC is right go to the child, by a pipe; the key stays here. The child has no
secret, and one time for everything; what it says is checked like any input from outside.
"""

from __future__ import annotations

import hashlib
import hmac
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Annotated, Any, Literal, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tiebreak.training.legacy.refusals import LegacyAltered, LegacyRefused, LegacyUnsigned

WALL_SECONDS = 300.0
MOST_FILE_BYTES = 1 << 30
MOST_ANSWER_BYTES = 1 << 29
CHILD = "tiebreak.training.legacy.child"
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Code = float | Literal["nan"] | None
Operation = Literal["fill", "sub", "div", "mul", "add", "clip_low", "clip_high", "zero"]


class ToldEncoder(_Told):
    """Codes of texts; null where the model has no answer."""

    values: list[tuple[str, Code]]
    unseen: Code
    missing: Code


class ToldColumn(_Told):
    """What the trees read in one place."""

    input: Annotated[int, Field(ge=0)]
    encoder: ToldEncoder | None
    steps: list[tuple[Operation, float]]


class ToldTree(_Told):
    """One tree, node by node."""

    left: list[int]
    right: list[int]
    feature: list[int]
    threshold: list[float]
    missing: list[int]
    value: list[float]
    cover: list[float]

    @property
    def is_sound(self) -> bool:
        """Whether every node is told and children come after their parents, inside the tree."""
        count = len(self.left)
        fields = (self.right, self.feature, self.threshold, self.missing, self.value, self.cover)
        pairs = zip(self.left, self.right, strict=False)
        return (
            count > 0
            and all(len(values) == count for values in fields)
            and all(
                (left < 0 and right < 0) or (node < left < count and node < right < count)
                for node, (left, right) in enumerate(pairs)
            )
            and bool(np.isfinite([*self.threshold, *self.value, *self.cover]).all())
        )


class Told(_Told):
    """What the child tells of a model; see `training.legacy.shapes`."""

    library: Literal["xgboost", "lightgbm", "scikit-learn"]
    shape: str
    inputs: list[str] | int
    used: list[int]
    columns: list[ToldColumn]
    rule: Literal["lt32", "le32", "le64"]
    link: Literal["logistic", "identity"]
    base: float
    count: int
    trees: Annotated[list[ToldTree], Field(min_length=1)]


def verified(data: bytes, signature: str | None, key: bytes) -> bytes:
    """The same bytes, once their HMAC-SHA256 in hex is right.

    Raises LegacyUnsigned and LegacyAltered; nothing is parsed before.
    """
    if signature is None:
        raise LegacyUnsigned(hint="Put its signature beside it as FILE.sig, or name it by --sig.")
    expected = hmac.digest(key, data, hashlib.sha256)
    try:
        given = bytes.fromhex(signature.strip())
    except ValueError:
        raise LegacyAltered(
            "The signature does not fit: it is no HMAC-SHA256 in hexadecimal.",
            hint="Take file, signature and key from where they were made.",
        ) from None
    if not hmac.compare_digest(given, expected):
        raise LegacyAltered(
            "The signature does not fit the file and the key.",
            hint="Take file, signature and key from where they were made.",
        )
    return data


class CagedModel:
    """One child with one verified model; use it in a `with`, which ends it."""

    def __init__(self, data: bytes, seconds: float = WALL_SECONDS) -> None:
        if len(data) > MOST_FILE_BYTES:
            raise LegacyRefused(hint=f"It is larger than {MOST_FILE_BYTES >> 20:,} MiB.")
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-m", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        self._seconds = seconds
        self._is_late = False
        self._timer = threading.Timer(seconds, self._end_late)
        self._timer.daemon = True
        self._timer.start()
        self._first = data

    def __enter__(self) -> CagedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue

    def describe(self) -> Told:
        """What the model is; raises LegacyRefused with the reason."""
        data, self._first = self._first, b""
        told = self._ask(data)
        if not isinstance(told, dict):
            raise self._refused("its reader answers nonsense")
        facts = cast("dict[str, Any]", told)
        if "no_cage" in facts:
            raise LegacyRefused("This machine opens no pickle.", hint=_plain(facts["no_cage"]))
        if "refused" in facts:
            raise self._refused(_plain(facts["refused"]))
        try:
            found = Told.model_validate(facts)
        except ValidationError:
            raise self._refused("its reader answers nonsense") from None
        places = {feature for tree in found.trees for feature in tree.feature}
        inputs = found.inputs if isinstance(found.inputs, int) else len(found.inputs)
        if (
            not all(tree.is_sound for tree in found.trees)
            or len(found.columns) != found.count
            or not all(0 <= place < found.count for place in places)
            or not all(column.input < inputs for column in found.columns)
        ):
            raise self._refused("its trees contradict themselves")
        return found

    def scores(self, columns: Sequence[Sequence[Any]]) -> NDArray[np.float64]:
        """The model's own probabilities (n,) of raw rows, given as columns."""
        told = self._ask(orjson.dumps(columns))
        found = told.get("scores") if isinstance(told, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(found, str):
            raise self._refused(f"it does not score its own inputs: {_plain(found)}")
        try:
            scores = np.array(found, dtype=np.float64)
        except (TypeError, ValueError):
            raise self._refused("its reader answers nonsense") from None
        if scores.shape != (len(columns[0]),):
            raise self._refused("its reader answers nonsense")
        return scores

    def _ask(self, message: bytes) -> object:
        source, out = self._child.stdin, self._child.stdout
        assert source is not None
        assert out is not None
        try:
            source.write(len(message).to_bytes(8, "big"))
            source.write(message)
            source.flush()
        except BrokenPipeError:
            raise self._gone() from None
        size = int.from_bytes(_exactly(out, 8) or b"", "big")
        data = _exactly(out, size) if 0 < size <= MOST_ANSWER_BYTES else None
        if data is None:
            raise self._gone()
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise self._refused("its reader answers nonsense") from None

    def _gone(self) -> LegacyRefused:
        if self._is_late:
            return self._refused(f"reading it takes more than {self._seconds:,.0f} seconds")
        return self._refused("its reader died: it needs too much memory or time, or is harmful")

    def _refused(self, reason: str) -> LegacyRefused:
        return LegacyRefused(
            f"The model cannot be imported: {reason}.",
            hint="docs/howto/import-a-legacy-model.md lists the shapes that convert.",
        )

    def _end_late(self) -> None:
        self._is_late = True
        self._child.kill()


def _exactly(source: IO[bytes], size: int) -> bytes | None:
    data = source.read(size)
    return data if len(data) == size else None


def _plain(text: object) -> str:
    """Text from the child, as it may be shown: printable and short."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:300].rstrip(".")
