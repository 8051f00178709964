"""Many tickets in one request, as NDJSON and as an Arrow stream, over HTTP.

Full path: every ticket is validated, admitted with its history, decided, explained and committed
before its line is answered. Several requests run at once, so that no worker is idle. The
alternative is one request a ticket on 64 connections.
"""

from __future__ import annotations

import io
import os
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import polars as pl

from bench.load import Load
from bench.load import run as send
from bench.memory import watched
from bench.stack import Running, tiebreak, up
from bench.stage import ROOT, Stage, stage
from tiebreak.core.tickets import ticket_schema
from tiebreak.workflows.check import check_folder

TICKETS = 10_000  # a request
REQUESTS_A_WORKER = 2
SECONDS = 10.0
ARROW, NDJSON = "application/vnd.apache.arrow.stream", "application/x-ndjson"


def run() -> dict[str, Any]:
    """Tickets a second of both formats and of single requests."""
    staged = stage()
    workers = len(os.sched_getaffinity(0))
    with up(staged.data_dir, workers) as running, watched(running.pid) as peak:
        key = tiebreak(
            staged.data_dir, workers, "keys", "create", "--person", "bench", "--role", "service"
        )["key"]
        found: dict[str, float] = {}
        for kind, body in ((NDJSON, _ndjson), (ARROW, _arrow)):
            _send_all(running, staged, key, kind, [body(staged, f"warm{kind}", 500)])
            requests = workers * REQUESTS_A_WORKER
            bodies = [body(staged, f"{kind}{i}", TICKETS) for i in range(requests)]
            begun = time.monotonic()
            _send_all(running, staged, key, kind, bodies)
            found[kind] = round(requests * TICKETS / (time.monotonic() - begun), 1)
        single = send(
            Load(
                port=running.port,
                path=f"/v1/workflows/{staged.workflow}/decisions",
                fields_file=str(staged.fields_file),
                connections=64,
                seconds=SECONDS,
                id_prefix=f"single-{time.time_ns()}",
                headers={"Authorization": f"Bearer {key}"},
            )
        )["requests_per_second"]
    return {
        "tiebreak": {
            "ndjson_tickets_per_second": found[NDJSON],
            "arrow_tickets_per_second": found[ARROW],
            "peak_memory_mib": peak.mib,
        },
        "alternative": {
            "name": "one request a ticket, 64 connections",
            "tickets_per_second": single,
        },
        "ratio": round(found[NDJSON] / single, 3),
    }


def _send_all(running: Running, staged: Stage, key: str, kind: str, bodies: list[bytes]) -> None:
    address = f"{running.url}/v1/workflows/{staged.workflow}/decisions:batch"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}

    def one(body: bytes) -> None:
        request = urllib.request.Request(address, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                if not line.strip():
                    continue
                told = orjson.loads(line)
                if told["status"] != 200:
                    raise RuntimeError(f"a ticket was refused: {told}")

    with ThreadPoolExecutor(len(bodies)) as pool:
        list(pool.map(one, bodies))


def _rows(staged: Stage, name: str, count: int) -> list[tuple[str, bytes]]:
    fields = staged.fields_file.read_bytes().splitlines()
    return [
        (f"{name}-{time.time_ns()}-{i}".replace("/", "."), fields[i % len(fields)])
        for i in range(count)
    ]


def _ndjson(staged: Stage, name: str, count: int) -> bytes:
    return b"".join(
        b'{"ticket_id":"%b","fields":%b}\n' % (ticket_id.encode(), fields)
        for ticket_id, fields in _rows(staged, name, count)
    )


def _arrow(staged: Stage, name: str, count: int) -> bytes:
    workflow, _ = check_folder(ROOT / "workflows" / staged.workflow).sound()
    schema = ticket_schema(workflow)
    rows = _rows(staged, name, count)
    values = [schema.parse(fields) for _, fields in rows]
    frame = schema.frame([each for each in values if isinstance(each, dict)])
    ids = pl.Series(workflow.ticket_id, [ticket_id for ticket_id, _ in rows])
    sources = {field.name: field.source or field.name for field in schema.fields}
    out = io.BytesIO()
    frame.rename(sources).insert_column(0, ids).write_ipc_stream(out)
    return out.getvalue()
