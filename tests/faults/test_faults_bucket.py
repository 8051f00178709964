"""The S3 server dies under a whole Tiebreak: it goes on deciding with its model, anew too."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from tests import s3
from tests.faults.stacks import ROOT, Stack

SECONDS = 60


def decided(stack: Stack, ticket_id: str) -> dict[str, Any]:
    """The answer to the example ticket under another id."""
    body = json.loads((ROOT / "docs/examples/locate-ticket.json").read_text())
    headers = {"Authorization": f"Bearer {stack.token}"}
    path = f"{stack.url()}/v1/workflows/locate/decisions"
    answer = httpx.post(path, json={**body, "ticket_id": ticket_id}, headers=headers, timeout=30)
    return answer.raise_for_status().json()


def told(stack: Stack, code: str) -> None:
    """Wait until /readyz names this problem."""
    end = time.monotonic() + SECONDS
    while code not in (text := httpx.get(f"{stack.url()}/readyz", timeout=10).text):
        assert time.monotonic() < end, text
        time.sleep(0.5)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_tiebreak_outlives_its_bucket() -> None:
    with s3.running() as server:
        stack = Stack(**server.environment())
        try:
            stack.cli("demo", "--exit", "--tickets", "20")
            stack.start()
            stack.url()
            stack.token = stack.cli("keys", "create", "--person", "client", "--role", "service")[
                "key"
            ]
            names = {key.removeprefix(f"{s3.PREFIX}/").split("/")[0] for key in server.objects()}
            assert names == {"aliases", "bundles", "checkpoints", "snapshots"}
            assert not (stack.folder / "data" / "artifacts").exists()
            first = decided(stack, "one")
            assert first["model"]["status"] == "scored"
            server.kill()
            told(stack, "artifacts_unavailable")
            assert decided(stack, "two")["model"]["status"] == "scored"
            stack.kill_worker()
            stack.kill_worker()
            assert decided(stack, "three")["model"]["status"] == "scored"
            stack.kill_everything()
            stack.start()
            after = decided(stack, "four")
            assert after["policy_hash"] == first["policy_hash"]
            assert after["model"]["status"] == "scored"
            told(stack, "artifacts_unavailable")
        finally:
            stack.close()
