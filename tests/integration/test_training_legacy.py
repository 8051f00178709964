"""Legacy models: what converts gives the same scores; the rest is refused before or in the cage."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests import legacy_models as legacy

from tiebreak.core.matrix import feature_matrix
from tiebreak.core.model import Model
from tiebreak.training.legacy import reading
from tiebreak.training.legacy.importing import Converted, LegacyFile, convert_file
from tiebreak.training.legacy.mapping import Entry, MappingUnfit
from tiebreak.training.legacy.refusals import (
    LegacyAltered,
    LegacyNotEqual,
    LegacyRefused,
    LegacyUnsigned,
)

WORKFLOW = legacy.SNAPSHOT.workflow


def converted(file: LegacyFile) -> Converted:
    return convert_file(WORKFLOW, file, legacy.SNAPSHOT)


def some(cases: Iterable[Any], count: int) -> list[Any]:
    """The first few of them always, the others in the full suite: each starts a process."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if place < count else pytest.mark.full,
        )
        for place, case in enumerate(cases)
    ]


@pytest.mark.parametrize("name", some(legacy.BARE, 2))
def test_a_bare_model_converts(name: str) -> None:
    model = clone(legacy.BARE[name]).fit(legacy.numbers(), legacy.labels())
    made = converted(legacy.signed(model, legacy.NUMBERS))
    assert made.manifest["parity"]["score"] <= 1e-5


@pytest.mark.parametrize("name", some(legacy.PIPELINES, 1))
def test_a_pipeline_of_numbers_converts(name: str) -> None:
    model = clone(legacy.PIPELINES[name]).fit(legacy.numbers(), legacy.labels())
    made = converted(legacy.signed(model, legacy.NUMBERS, compress=3))
    assert made.manifest["parity"]["score"] <= 1e-5


@pytest.mark.parametrize("name", some(legacy.MIXED, 1))
def test_a_pipeline_with_categories_converts(name: str) -> None:
    model = clone(legacy.MIXED[name]).fit(legacy.mixed(), legacy.labels())
    made = converted(legacy.signed(model, [*legacy.NUMBERS, *legacy.CATEGORIES]))
    assert made.manifest["parity"]["score"] <= 1e-5


def test_scores_on_stored_tickets_are_the_originals() -> None:
    model = clone(legacy.MIXED["one-hot forest"]).fit(legacy.mixed(), legacy.labels())
    names = [*legacy.NUMBERS, *legacy.CATEGORIES]
    made = converted(legacy.signed(model, names))
    served = Model.load(made.parts, "")
    x = feature_matrix(served.features, legacy.SNAPSHOT.frame)
    # what the bundle sees of a number is its nearest float32; so does the original here
    rows = legacy.mixed()
    rows[:, :3] = rows[:, :3].astype(np.float32).astype(np.float64)
    native = model.predict_proba(rows)[:, 1]
    assert np.abs(served.scores(served.margins(x)) - native).max() <= 1e-5
    assert made.manifest["metrics"]["auc"] > 0.7


@pytest.mark.full
def test_inputs_go_by_name_and_by_a_mapping_with_codes() -> None:
    x, y = legacy.numbers(holes=False), legacy.labels()
    codes = {"boring": 7.0, "hand": 3.0, "plough": 1.0}
    methods = legacy.SNAPSHOT.frame["dig_method"].to_list()
    x = np.column_stack([x, [codes.get(m, 0.0 if m else -5.0) for m in methods]])
    model = GradientBoostingClassifier(n_estimators=20).fit(x, y)
    model.feature_names_in_ = np.array(["depth_m", "crew", "urgent", "method"], dtype=object)
    mapping = {
        "depth_m": Entry(feature="depth_m", missing=-1.0),
        "crew": Entry(feature="member_count", missing=-1.0),
        "urgent": Entry(feature="urgent", missing=-1.0),
        "method": Entry(feature="dig_method", codes=codes, unseen=0.0, missing=-5.0),
    }
    made = converted(legacy.signed(model, mapping))
    assert made.manifest["origin"]["inputs"]["crew"] == "member_count"
    with pytest.raises(MappingUnfit) as caught:
        converted(legacy.signed(model))
    assert [each.where for each in caught.value.problems] == ["inputs.crew", "inputs.method"]
    with pytest.raises(LegacyRefused, match="missing values of urgent"):
        converted(legacy.signed(model, {**mapping, "urgent": "urgent"}))


@pytest.mark.parametrize(
    ("make", "reason"),
    some(
        [
            (LogisticRegression, "LogisticRegression is none of"),
            (lambda: make_pipeline(PCA(2), RandomForestClassifier(2)), "PCA is none of"),
            (lambda: GradientBoostingClassifier(loss="exponential", n_estimators=2), "exponential"),
            (lambda: RandomForestClassifier(40, min_samples_leaf=1), "levels deep"),
            (lambda: xgb.XGBClassifier(n_estimators=2, missing=-1.0), "another value than NaN"),
            (lambda: xgb.XGBClassifier(n_estimators=2, booster="dart", n_jobs=1), "gbtree"),
            (
                lambda: make_pipeline(OneHotEncoder(), xgb.XGBClassifier(n_estimators=2)),
                "numbers with fractions|sparse matrix",
            ),
        ],
        2,
    ),
)
def test_other_shapes_are_refused_with_the_reason(make: Any, reason: str) -> None:
    chance = np.random.default_rng(0)
    model = make().fit(legacy.numbers(holes=False), chance.random(1_200) < 0.5)
    entries = [Entry(feature=name, missing=-1.0) for name in legacy.NUMBERS]
    with pytest.raises(LegacyRefused, match=reason):
        converted(legacy.signed(model, entries))


def test_a_conversion_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = clone(legacy.BARE["xgboost"]).fit(legacy.numbers(), legacy.labels())
    file = legacy.signed(model, legacy.NUMBERS)
    native = reading.CagedModel.scores
    monkeypatch.setattr(reading.CagedModel, "scores", lambda *a: native(*a) + 2e-5)
    with pytest.raises(LegacyNotEqual):
        converted(file)


# --- hostile files -------------------------------------------------------------------------


class Hostile:
    """Does what it holds as soon as it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self._reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


def test_unsigned_and_altered_files_are_refused_before_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    file = legacy.of_bytes(pickle.dumps(Hostile(os.mkdir, str(tmp_path / "made"))))
    with pytest.raises(LegacyUnsigned):
        converted(replace(file, signature=None))
    with pytest.raises(LegacyAltered, match="no HMAC-SHA256 in hexadecimal"):
        converted(replace(file, signature="no hex"))
    for altered in (replace(file, data=file.data + b"."), replace(file, key=bytes(40))):
        with pytest.raises(LegacyAltered):
            converted(altered)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("call", some([os.system, eval, open, subprocess.Popen, getattr], 1))
def test_a_pickle_that_calls_what_is_no_model_is_refused_by_name(call: Any) -> None:
    with pytest.raises(LegacyRefused, match="which no model is made of"):
        converted(legacy.of_bytes(pickle.dumps(Hostile(call, "x"))))


CRIMES = {
    "read a secret": "print(open({secret!r}).read())",
    "list secrets": "print(os.listdir({folder!r}))",
    "read the environment of its parent": "print(open(f'/proc/{{os.getppid()}}/environ').read())",
    "write": "open({made!r}, 'w').write('x')",
    "make a folder": "os.mkdir({made!r})",
    "remove": "os.unlink({secret!r})",
    "open a socket": "socket.create_connection(('127.0.0.1', {port}))",
    "bind a socket": "socket.socket(socket.AF_UNIX)",
    "start a process": "subprocess.run(['touch', {made!r}])",
    "replace itself": "os.execv('/usr/bin/touch', ['touch', {made!r}])",
    "fork": "os.fork()",
    "start a thread": "threading.Thread(target=print).start()",
    "kill its parent": "os.kill(os.getppid(), 9)",
    "kill all": "os.kill(-1, 9)",
    "take much memory": "bytearray(8 << 30)",
    "map much memory": "mmap.mmap(-1, 8 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
    "raise its limits": "resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))",
    "speak to another file": "os.write(2, b'x')",
    "make memory to run": "os.memfd_create('x')",
    "trace": "libc.ptrace(16, os.getppid(), 0, 0) == 0 or int('refused')",
    "a raw socket call": "libc.syscall(41, 2, 1, 0) >= 0 or int('refused')",
    "a raw call of the other kind": "libc.syscall(0x40000029, 2, 1, 0) >= 0 or int('refused')",
    "a raw call of io_uring": "libc.syscall(425, 8, 0) >= 0 or int('refused')",
}
CAGED = """
import ctypes, mmap, os, resource, socket, subprocess, sys, threading
import numpy, xgboost
libc = ctypes.CDLL(None)
from tiebreak.training.legacy.cage import lock
if sys.argv[1] == "caged":
    lock()
try:
    exec(sys.argv[2])
except BaseException as error:
    told = "refused " + type(error).__name__
else:
    told = "done"
os.write(1, told.encode())
os._exit(0)
"""


def commit(crime: str, where: str, folder: Path) -> str:
    """What becomes of a crime in the cage, or outside of it."""
    (folder / "secret").write_text("SECRET")
    code = CRIMES[crime].format(
        secret=str(folder / "secret"), folder=str(folder), made=str(folder / "made"), port=9
    )
    done = subprocess.run(
        [sys.executable, "-c", CAGED, where, code], capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("crime", some(CRIMES, 4))
def test_the_cage_holds(crime: str, tmp_path: Path) -> None:
    told = commit(crime, "caged", tmp_path)
    assert told.startswith("refused"), told
    assert "SECRET" not in told
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "secret").read_text() == "SECRET"


@pytest.mark.parametrize("crime", some(["read a secret", "write", "start a process", "fork"], 1))
def test_the_crimes_are_real(crime: str, tmp_path: Path) -> None:
    assert "done" in commit(crime, "free", tmp_path)


@pytest.mark.full
def test_what_hangs_is_ended() -> None:
    with pytest.raises(LegacyRefused, match="more than 8 seconds"):
        convert_file(WORKFLOW, legacy.of_bytes(b"(" * 100_000_000), None, seconds=8)


@pytest.mark.parametrize("junk", some([b"junk", pickle.dumps({"a": 1}), b"", b"\x80\x05"], 2))
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(LegacyRefused):
        converted(legacy.of_bytes(junk))


def test_a_child_that_lies_is_not_believed() -> None:
    for told in (b"[]", b"{}", b'{"scores": 1}', b"nonsense", b""):
        with legacy_liar(told) as caged, pytest.raises(LegacyRefused):
            caged.describe()


def legacy_liar(told: bytes) -> reading.CagedModel:
    """A child that answers anything with these bytes."""
    answer = len(told).to_bytes(8, "big") + told
    code = f"import os, sys; sys.stdin.buffer.read(9); os.write(1, {answer!r}); sys.stdin.read()"
    caged = reading.CagedModel(b"x")
    caged._child.kill()  # pyright: ignore[reportPrivateUsage]
    caged._child = subprocess.Popen(  # pyright: ignore[reportPrivateUsage]
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    return caged
