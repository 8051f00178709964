"""Candidates for shadow and canary: signed models that learnt nothing, and what they do instead.

Each behaves while it is loaded, where all features are missing, and shows itself on real tickets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import onnx
import orjson
import pytest
from onnx import TensorProto, helper
from tests import releases
from tests.databases import DatabaseUrls
from tests.functional.serving import environment, prepare, settings_for
from tests.keys import KEYRING
from tests.sample_models import METHODS, WORKFLOW, parameters, snapshot

from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.model import INPUT, ONNX, OUTPUT
from tiebreak.core.policy import PolicyParts
from tiebreak.core.tickets import Submission, parse_submission, ticket_schema
from tiebreak.core.workflow import Knobs, Rule, RuleSet, Workflow
from tiebreak.decisions.service import DecisionService
from tiebreak.release.releases import Office, Release
from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database
from tiebreak.training.train import train
from tiebreak.workflows import versions

Kind = Literal["sound", "not_finite", "wrong_count", "fails", "hangs", "slow", "eats_memory"]
RULES = RuleSet(
    rules=(
        Rule(id="deep", when="depth > 3", effect="floor", band="high", hard=True, message="Deep."),
        Rule(id="many", when="members > 9", effect="points", points=60, message="Many."),
    )
)
SAMPLE = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=0)})
NAME = SAMPLE.name
SCHEMA = ticket_schema(SAMPLE)
ENDLESS, LONG = 2**62, 1_000_000


@cache
def trained() -> Mapping[str, bytes]:
    """The parts of a sound model."""
    return train(snapshot(1_000), parameters(8), lambda *_: None, fingerprint="here").parts


def bundle(artifacts: Path, kind: Kind, keyring: Keyring = KEYRING) -> str:
    """Store a signed model of this kind; its digest."""
    parts = dict(trained())
    if kind != "sound":
        parts[ONNX] = _GRAPHS[kind]
    keys = BundleKeys(keyring.bundle_keys, keyring.bundle_signing_key_id)
    return ArtifactStore(Folder(artifacts)).put_bundle(make_bundle(parts, keys))


@dataclass
class Site:
    """An office with a workflow in production by rules alone, and candidates of it."""

    office: Office
    artifacts: Path
    workflow: Workflow = SAMPLE
    rules: RuleSet = RULES

    @classmethod
    async def open(cls, db: Database, artifacts: Path) -> Site:
        """An office of tests."""
        lane = await Lane.open(db, "tests", KEYRING)
        return cls(releases.office_of(db, lane, KEYRING, artifacts), artifacts)

    async def candidate(self, kind: Kind = "sound", *, rules: RuleSet | None = None) -> Release:
        """A release of production's workflow with a model of this kind."""
        chosen = rules or self.rules
        if rules is not None:
            await versions.load(
                self.office.lane, self.workflow, chosen, author="ann", reason="test"
            )
        parts = PolicyParts(
            self.workflow.name,
            self.workflow.version,
            chosen.version,
            bundle(self.artifacts, kind, self.office.keyring),
        )
        return await releases.proposed(self.office, parts)


def settled(urls: DatabaseUrls, folder: Path, environ: pytest.MonkeyPatch) -> Settings:
    """A workflow in production by rules alone, and the environment of processes beside us."""
    prepare(urls, KEYRING, workflow=SAMPLE, rules=RULES)
    keys = {
        "SEAL": orjson.dumps({i: k.hex() for i, k in KEYRING.seal_keys.items()}).decode(),
        "SEAL_KEY_ID": KEYRING.seal_key_id,
        "BUNDLE": orjson.dumps({i: k.hex() for i, k in KEYRING.bundle_keys.items()}).decode(),
        "BUNDLE_SIGNING_KEY_ID": KEYRING.bundle_signing_key_id,
        "ENTITY": KEYRING.entity_key.hex(),
        "SAMPLING": KEYRING.sampling_key.hex(),
    }
    values = {
        **environment(settings_for(urls, folder)),
        **{f"TIEBREAK_KEYS__{name}": value for name, value in keys.items()},
        "TIEBREAK_SHADOW__BATCH_SECONDS": "1",
        "POLARS_MAX_THREADS": "1",
    }
    for name, value in values.items():
        environ.setenv(name, value)
    return Settings.load()


def body(number: int) -> bytes:
    """A ticket as it is submitted; no two of a test alike."""
    fields = {
        "opened_at": "2026-03-02T14:30:00Z",
        "depth": (number % 50) / 10,
        "members": number % 12,
        "is_urgent": number % 7 == 0,
        "method": METHODS[number % len(METHODS)],
        "city": f"town {number % 5}",
        "remarks": "dig near the gas main" if number % 3 else None,
    }
    return orjson.dumps({"ticket_id": f"t{number}", "fields": fields})


def submission(number: int) -> Submission:
    """The same, taken."""
    parsed = parse_submission(SCHEMA, body(number))
    assert isinstance(parsed, Submission), parsed
    return parsed


async def submit(service: DecisionService, numbers: range) -> list[dict[str, Any]]:
    """Decide these tickets, all at once."""
    return await asyncio.gather(*(service.decide(NAME, submission(n), "ann") for n in numbers))


def _graph(*nodes: onnx.NodeProto, constants: Mapping[str, Any]) -> bytes:
    """A graph over `is_empty`: whether the first feature of the first row is missing."""
    ways = [
        helper.make_node("Slice", [INPUT, "zero", "one", "columns"], ["first"]),
        helper.make_node("IsNaN", ["first"], ["missing"]),
        helper.make_node("Gather", ["missing", "at"], ["missing_row"]),
        helper.make_node("Squeeze", ["missing_row"], ["is_empty"]),
        helper.make_node("Sub", ["first", "first"], ["nought"]),
        *nodes,
    ]
    used = {name for node in ways for name in node.input}
    initial = [
        helper.make_tensor(name, *_tensor(value))
        for name, value in (_COMMON | constants).items()
        if name in used
    ]
    whole = helper.make_graph(
        ways,
        "hostile",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, 6])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1])],
        initial,
    )
    made = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return made.SerializeToString()


def _tensor(value: Any) -> tuple[int, list[int], list[Any]]:
    if isinstance(value, list):
        return TensorProto.INT64, [len(value)], value
    return TensorProto.INT64, [], [value]


def _loop(rounds: int) -> bytes:
    """Adds nothing for many rounds."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Add", ["sum", "sum"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [None, 1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [None, 1]),
        ],
    )
    return _graph(
        helper.make_node("Where", ["is_empty", "nothing", "rounds"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "nought"], [OUTPUT], body=body),
        constants={"rounds": rounds},
    )


_COMMON: dict[str, Any] = {
    "zero": [0],
    "one": [1],
    "columns": [1],
    "at": 0,
    "nothing": 0,
    "rows": [0],
}
_GRAPHS: dict[Kind, bytes] = {
    "not_finite": _graph(helper.make_node("Div", ["nought", "nought"], [OUTPUT]), constants={}),
    "wrong_count": _graph(
        helper.make_node("Slice", ["first", "zero", "one", "rows"], [OUTPUT]), constants={}
    ),
    "fails": _graph(
        helper.make_node("Where", ["is_empty", "nothing", "beyond"], ["place"]),
        helper.make_node("Gather", ["nought", "place"], ["row"]),
        helper.make_node("Add", ["nought", "row"], [OUTPUT]),
        constants={"beyond": 1_000_000},
    ),
    "hangs": _loop(ENDLESS),
    "slow": _loop(LONG),
    "eats_memory": _graph(
        helper.make_node("Where", ["is_empty", "ones", "giant"], ["shape"]),
        helper.make_node("Expand", ["nought", "shape"], ["much"]),
        helper.make_node("ReduceMax", ["much"], [OUTPUT], axes=[1], keepdims=1),
        constants={"ones": [1, 1], "giant": [1, 2**33]},
    ),
}
