"""Health, metrics, and what happens when the database goes away and comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from tests.databases import DatabaseUrls, execute, run
from tests.functional.serving import (
    TICKET,
    Site,
    prepare,
    serving,
    settings_for,
    wait_until_served,
)
from tests.functional.switch import Switch

from tiebreak.access.roles import Role
from tiebreak.settings import Keyring, RedisSettings

PATH = "/v1/workflows/repairs/decisions"


def ticket(ticket_id: str) -> dict[str, object]:
    return {"ticket_id": ticket_id, "fields": dict(TICKET)}


def test_a_whole_server_is_alive_and_ready(site: Site) -> None:
    assert httpx.get(site.url + "/livez").json() == {"status": "alive"}
    assert httpx.get(site.url + "/readyz").json() == {
        "status": "ready",
        "problems": [],
        "warnings": [],
    }


def test_without_its_model_it_decides_by_rules_and_says_so(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    tokens = prepare(database_urls, keyring, bundle_digest="ab" * 32)
    with serving(settings_for(database_urls, tmp_path), keyring) as (url, _):
        ready = httpx.get(url + "/readyz")
        assert ready.status_code == 200
        assert ready.json()["status"] == "degraded"
        assert len(ready.json()["problems"]) == 1
        headers = {"Authorization": f"Bearer {tokens[Role.SERVICE]}"}
        answer = httpx.post(url + PATH, json=ticket("t"), headers=headers).json()
        assert answer["model"] == {"status": "failed"}
        assert answer["band"] == "low"


def test_with_nothing_in_production_it_is_not_ready(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    with serving(settings_for(database_urls, tmp_path), keyring) as (url, _):
        ready = httpx.get(url + "/readyz")
        assert ready.status_code == 503
        assert [item["code"] for item in ready.json()["problems"]] == ["none_in_production"]


def test_a_schema_of_another_version_is_served_by_nobody(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    tokens = prepare(database_urls, keyring)
    run(execute(database_urls.owner, "UPDATE alembic_version SET version_num = '0001'"))
    with serving(settings_for(database_urls, tmp_path), keyring) as (url, _):
        ready = httpx.get(url + "/readyz")
        assert ready.status_code == 503
        assert [item["code"] for item in ready.json()["problems"]] == ["schema_mismatch"]
        headers = {"Authorization": f"Bearer {tokens[Role.SERVICE]}"}
        answer = httpx.post(url + PATH, json=ticket("t"), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "starting")
        assert "version 0001" in answer.json()["detail"]


def test_a_database_that_goes_away_is_a_503_and_all_is_well_when_it_is_back(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path, server_folder: Path
) -> None:
    tokens = prepare(database_urls, keyring)
    with Switch(database_urls.app, tmp_path) as switch:
        urls = replace(database_urls, app=switch.url)
        with serving(settings_for(urls, tmp_path), keyring) as (url, _):
            headers = {"Authorization": f"Bearer {tokens[Role.SERVICE]}"}
            with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
                assert client.post(PATH, json=ticket("before")).status_code == 200
                switch.off()
                for number in range(3):
                    _is_away(client.post(PATH, json=ticket(f"away{number}")))
                ready = client.get("/readyz")
                assert ready.status_code == 503
                codes = [item["code"] for item in ready.json()["problems"]]
                assert "database_unavailable" in codes
                assert client.get("/livez").status_code == 200
                switch.on()
                wait_until_served(url, "/readyz")
                assert client.post(PATH, json=ticket("away0")).status_code == 200
                listed = client.get(PATH).json()["decisions"]
                assert [item["ticket_id"] for item in listed] == ["away0", "before"]


def test_a_server_that_starts_without_its_database_gets_ready_later(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    tokens = prepare(database_urls, keyring)
    headers = {"Authorization": f"Bearer {tokens[Role.SERVICE]}"}
    with Switch(database_urls.app, tmp_path) as switch:
        switch.off()
        urls = replace(database_urls, app=switch.url)
        with serving(settings_for(urls, tmp_path), keyring) as (url, _):
            assert httpx.get(url + "/readyz").status_code == 503
            _is_away(httpx.post(url + PATH, json=ticket("t"), headers=headers))
            switch.on()
            assert wait_until_served(url, "/readyz").json()["status"] == "ready"


def _is_away(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.headers["content-type"] == "application/problem+json"


def test_without_the_task_queue_it_decides_and_says_so(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path, valkey_url: str
) -> None:
    tokens = prepare(database_urls, keyring)
    headers = {"Authorization": f"Bearer {tokens[Role.SERVICE]}"}
    for redis_url, status, codes in (
        (valkey_url, "ready", []),
        ("redis://127.0.0.1:1/0", "degraded", ["queue_unavailable"]),
    ):
        redis = RedisSettings(url=SecretStr(redis_url))
        settings = settings_for(database_urls, tmp_path).model_copy(update={"redis": redis})
        with serving(settings, keyring) as (url, _):
            ready = httpx.get(url + "/readyz")
            assert ready.status_code == 200
            assert ready.json()["status"] == status
            assert [item["code"] for item in ready.json()["problems"]] == codes
            assert httpx.post(url + PATH, json=ticket("t"), headers=headers).status_code == 200


def test_metrics_count_requests_and_decisions(site: Site) -> None:
    client = site.client()
    for number in range(3):
        client.post(PATH, json=ticket(f"t{number}"))
    client.post(PATH, content=b"{", headers={"content-type": "application/json"})
    text = httpx.get(site.url + "/metrics").text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    name = "tiebreak_http_requests_total"
    assert samples[name, ("route", "decide_ticket"), ("status", "200")] == 3
    assert samples[name, ("route", "decide_ticket"), ("status", "400")] == 1
    assert samples["tiebreak_http_request_seconds_count", ("route", "decide_ticket")] == 4
    decided = [value for key, value in samples.items() if key[0] == "tiebreak_decisions_total"]
    assert decided == [3]
