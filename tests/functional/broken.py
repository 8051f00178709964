"""Broken models, made from what a workflow has stored: of labels that mean nothing, and that crash.

Both are whole and signed: nothing shows on the outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import onnx
import orjson
import polars as pl
from onnx import TensorProto, helper
from tests.databases import run

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.model import INPUT, MANIFEST, ONNX, OUTPUT
from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database
from tiebreak.training.dataset import Snapshot
from tiebreak.training.fit import Parameters
from tiebreak.training.snapshot import read_snapshot
from tiebreak.training.train import train
from tiebreak.workflows import versions

BEYOND = 1_000_000  # no tensor has so many rows


def snapshot_of(settings: Settings, workflow: str, known_by: datetime) -> Snapshot:
    """What training would read."""

    async def read() -> Snapshot:
        db = await Database.of(settings)
        stored = await versions.latest(db, workflow)
        found = await read_snapshot(
            db,
            stored.workflow,
            known_by=known_by,
            entity_secret=Keyring.load(settings).entity_key,
        )
        await db.close()
        return found

    return run(read())


def shuffled(settings: Settings, snapshot: Snapshot, valid_from: datetime) -> str:
    """The digest of a model that was trained on labels in a random order."""
    mixed = replace(snapshot, label=snapshot.label.shuffle(seed=3))
    parameters = Parameters(valid_from=valid_from, rounds=60, max_depth=4)
    return _signed(settings, train(mixed, parameters, _silent, fingerprint="").parts)


def crashing(settings: Settings, snapshot: Snapshot, digest: str, since: datetime) -> str:
    """The digest of a model like another, but it crashes beyond what a number was before `since`.

    It is the number that goes beyond it for the fewest of the later tickets, but for some.
    """
    store = ArtifactStore.of(settings)
    parts = dict(store.open_bundle(digest, BundleKeys.of(Keyring.load(settings))))
    names = [spec["name"] for spec in orjson.loads(parts[MANIFEST])["features"]]
    numbers = [
        name
        for name in names
        if name in snapshot.frame.columns and snapshot.frame[name].dtype.is_numeric()
    ]
    is_before = pl.Series(snapshot.as_of < since)
    most = snapshot.frame.filter(is_before).select(pl.col(numbers).max()).row(0, named=True)
    later = snapshot.frame.filter(~is_before)
    beyond = {name: int((later[name] > most[name]).sum()) for name in numbers}
    name = min((name for name in numbers if beyond[name]), key=lambda name: beyond[name])
    parts[ONNX] = _crashing(parts[ONNX], names.index(name), float(most[name]))
    return _signed(settings, parts)


def _silent(_step: str, _share: float) -> None:
    """Progress that nobody watches."""


def _crashing(graph: bytes, column: int, most: float) -> bytes:
    """The graph, but it reads behind the end of a tensor where a column is above a number."""
    model = onnx.load_from_string(graph)
    inner = f"{OUTPUT}_inner"
    for node in model.graph.node:
        node.output[:] = [inner if name == OUTPUT else name for name in node.output]
        node.input[:] = [inner if name == OUTPUT else name for name in node.input]
    model.graph.initializer.extend(
        [
            helper.make_tensor("its_column", TensorProto.INT64, [1], [column]),
            helper.make_tensor("its_most", TensorProto.FLOAT, [], [most]),
            helper.make_tensor("beyond", TensorProto.INT64, [], [BEYOND]),
            helper.make_tensor("within", TensorProto.INT64, [], [0]),
            helper.make_tensor("nought", TensorProto.FLOAT, [1], [0.0]),
        ]
    )
    model.graph.node.extend(
        [
            helper.make_node("Gather", [INPUT, "its_column"], ["its_values"], axis=1),
            helper.make_node("Greater", ["its_values", "its_most"], ["is_more"]),
            helper.make_node("Where", ["is_more", "beyond", "within"], ["place"]),
            helper.make_node("Gather", ["nought", "place"], ["nothing"]),
            helper.make_node("Add", [inner, "nothing"], [OUTPUT]),
        ]
    )
    return model.SerializeToString()


def _signed(settings: Settings, parts: Mapping[str, bytes]) -> str:
    keys = BundleKeys.of(Keyring.load(settings))
    return ArtifactStore.of(settings).put_bundle(make_bundle(parts, keys))
