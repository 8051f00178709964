"""The description is valid, complete and true: real answers fit it, its examples are taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
from openapi_spec_validator import validate
from tests.contract.descriptions import Checker, Json, operations
from tests.functional import test_web_release_trials as trials
from tests.functional import test_web_releases as ways
from tests.functional.serving import TICKET, Site

from tiebreak.access.acts import ACCESS
from tiebreak.access.roles import Role
from tiebreak.web.openapi import REQUESTS

HIDDEN = {"docs", "docs_asset", "openapi"}


def test_the_description_is_valid_openapi(description: Json) -> None:
    assert description["openapi"].startswith("3.1")
    validate(description)


def test_every_route_is_described_with_what_a_generator_needs(description: Json) -> None:
    found = operations(description)
    assert found.keys() == ACCESS.keys() - HIDDEN
    tags = {tag["name"] for tag in description["tags"]}
    for name, (method, _, operation) in found.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= tags, name
        assert bool(operation["security"]) == bool(ACCESS[name]), name
        assert operation.get("x-roles", []) == sorted(ACCESS[name]), name
        assert (method == "post") == ("requestBody" in operation), name
        for status, answer in operation["responses"].items():
            assert answer["description"], (name, status)
            if int(status) >= 400 and name != "readyz":
                assert list(answer["content"]) == ["application/problem+json"], (name, status)


def test_each_workflow_has_components_of_its_own(description: Json) -> None:
    schemas = description["components"]["schemas"]
    assert {"RepairsTicket", "RepairsSubmission", "RepairsOutcome"} <= schemas.keys()
    ticket = schemas["RepairsTicket"]
    assert ticket["required"] == ["opened_at", "kind"]
    assert ticket["properties"]["kind"]["enum"] == ["leak", "lamp"]
    assert "fixed_at" not in ticket["properties"]


def test_the_examples_are_taken(site: Site, description: Json) -> None:
    client, checker = site.client(), Checker(description)
    for name in ("decide_ticket", "record_outcome"):
        _, path, operation = operations(description)[name]
        content = operation["requestBody"]["content"]["application/json"]
        for workflow, example in content["examples"].items():
            kind = "Submission" if name == "decide_ticket" else "Outcome"
            checker.fits(f"urn:api#/components/schemas/Repairs{kind}", example["value"])
            filled = path.replace("{workflow}", workflow).replace("{ticket_id}", "example-1")
            response = client.post(filled, json=example["value"])
            assert response.is_success, response.text
            checker.check(name, response)


def test_every_answer_fits_its_description(site: Site, description: Json) -> None:
    checker = Checker(description)
    client, nobody = site.client(), site.client(None)
    base = "/v1/workflows/repairs"
    fields = {**TICKET, "cost": 5000, "urgent": True, "remarks": "a flood", "marks": ["x"]}
    decided = checker.check(
        "decide_ticket",
        client.post(f"{base}/decisions", json={"ticket_id": "t/1", "fields": fields}),
    )
    checker.check(
        "record_outcome",
        client.post(
            f"{base}/tickets/t%2F1/outcomes", json={"kind": "outcome", "fields": {"damage": True}}
        ),
    )
    again = f"{base}/tickets/t%2F1/revisions/1/decisions"
    lead = site.client(Role.LEAD)
    checker.fits("urn:api#/components/schemas/DecideAgain", {"reason": "test"})
    checker.check("decide_again", lead.post(again, json={"reason": "test"}))
    checker.check("decide_again", lead.post(again, json={}))
    checker.check("decide_again", lead.post(again.replace("/1/", "/9/"), json={"reason": "test"}))
    checker.check("decide_again", client.post(again, json={"reason": "test"}))
    auditor = site.client(Role.AUDITOR)
    assert checker.check("list_audit", auditor.get("/v1/audit?limit=2"))["entries"]
    checker.check("list_audit", auditor.get("/v1/audit?limit=0"))
    checker.check("list_audit", client.get("/v1/audit"))
    decision = f"/v1/decisions/{decided['decision_id']}"
    for name, path in {
        "get_decision": decision,
        "get_ticket": f"{base}/tickets/t%2F1",
        "list_decisions": f"{base}/decisions",
        "list_workflows": "/v1/workflows",
        "get_workflow": base,
        "list_workflow_versions": f"{base}/versions",
        "livez": "/livez",
        "readyz": "/readyz",
    }.items():
        told = checker.check(name, client.get(path))
        assert told, name
    for name, path, status in (
        ("get_decision", "/v1/decisions/019d0000-0000-7000-8000-000000000000", 404),
        ("get_decision", "/v1/decisions/nonsense", 422),
        ("get_explanation", f"{decision}/explanation", 404),
        ("get_ticket", f"{base}/tickets/nothing", 404),
        ("get_workflow", "/v1/workflows/nothing", 404),
        ("list_workflow_versions", "/v1/workflows/nothing/versions", 404),
        ("list_decisions", f"{base}/decisions?band=huge", 422),
        ("list_decisions", f"{base}/decisions?cursor=x", 422),
        ("list_decisions", f"{base}/decisions?limit=0", 422),
    ):
        response = client.get(path)
        assert response.status_code == status, (name, path, response.text)
        checker.check(name, response)
    checker.check("decide_ticket", nobody.post(f"{base}/decisions", json={}))
    checker.check("decide_ticket", site.client(Role.AUDITOR).post(f"{base}/decisions", json={}))
    checker.check("decide_ticket", client.post(f"{base}/decisions", json={"fields": {"a": 1}}))
    headers = {"content-type": "application/x-ndjson"}
    lines = client.post(f"{base}/decisions:batch", content=b"{}\n", headers=headers)
    checker.fits("urn:api#/components/schemas/BatchLine", lines.json())


def test_answers_about_releases_fit_their_description(site: Site, description: Json) -> None:
    checker = Checker(description)
    ann = ways.client(site, "ann", Role.ML_ENGINEER)
    bob = ways.client(site, "bob", Role.APPROVER)
    why = {"reason": "test"}

    def send(name: str, sender: httpx.Client, path: str, body: Json, **headers: str) -> Json:
        told = checker.check(name, sender.post(path, json=body, headers=headers))
        checker.check(name, sender.post(path, json={"nonsense": 1}, headers=headers))
        return told

    proposal = {"backtest": ways.backtest(site, 0.5).id, **why}
    release = send("propose_release", ann, ways.BASE, proposal)
    other = checker.check("propose_release", ann.post(ways.BASE, json=proposal))
    send("withdraw_release", ann, f"{ways.BASE}/{other['release_id']}/withdraw", why)
    proposal = {"backtest": ways.backtest(site, 0.25).id, **why}
    left = checker.check("propose_release", ann.post(ways.BASE, json=proposal))
    way = f"{ways.BASE}/{release['release_id']}"
    checker.check("evaluate_gates", ann.post(f"{way}/gates", json={}))
    send("start_shadow", ann, f"{way}/shadow/start", {"share": 0.5})
    send("stop_shadow", ann, f"{way}/shadow/stop", why)
    checker.check("stop_shadow", ann.post(f"{way}/shadow/stop", json=why))
    send("start_shadow", ann, f"{way}/shadow/start", {"since": "2026-01-31T00:00:00Z"})
    assert send("evaluate_gates", ann, f"{way}/gates", {"stage": "canary"})["results"]
    trials.gated(site, release["release_id"])
    send("approve_release", bob, f"{way}/approve", {"stage": "canary"})
    assert send("start_canary", ann, f"{way}/canary/start", {})["guards"]
    send("step_canary", ann, f"{way}/canary/step", {"percent": 20, "early": "test"})
    checker.check("step_canary", ann.post(f"{way}/canary/step", json={}))
    checker.check("step_canary", ann.post(f"{way}/canary/step", json={"percent": 101}))
    send("hold_canary", ann, f"{way}/canary/hold", why)
    send("stop_canary", ann, f"{way}/canary/stop", why)
    for each in ("shadow", "canary", "gates"):
        checker.check(f"get_release_{each}", ann.get(f"{way}/{each}"))
        checker.check(f"get_release_{each}", ann.get(f"{ways.BASE}/{ways.NOBODYS}/{each}"))
    ways.tried(site, release["release_id"])
    send("approve_release", bob, f"{way}/approve", {"stage": "promotion"})
    send("promote_release", ann, f"{way}/promote", why)
    checker.check("get_release", ann.get(way))
    checker.check("get_release", ann.get(f"{ways.BASE}/{ways.NOBODYS}"))
    again = {"backtest": ways.backtest(site, 0.25).id, **why}
    send("rebase_release", ann, f"{ways.BASE}/{left['release_id']}/rebase", again)
    record = send("demote_production", bob, f"{ways.PRODUCTION}/demote", why)
    checker.check("get_production", ann.get(f"{ways.BASE}/production"))
    signed = {"seq": record["seq"]}
    cat = ways.client(site, "cat", Role.APPROVER)
    send("countersign_demotion", cat, f"{ways.PRODUCTION}/countersign", signed)
    back = {"policy_hash": release["policy_hash"], **why}
    approval = {"X-Approval": bob.headers["Authorization"]}
    send("rollback_production", ann, f"{ways.PRODUCTION}/rollback", back, **approval)
    checker.check("rollback_production", ann.post(f"{ways.PRODUCTION}/rollback", json=back))
    for name, path in (
        ("list_releases", f"{ways.BASE}?limit=1"),
        ("list_releases", f"{ways.BASE}?state=nonsense"),
        ("list_release_history", f"{ways.BASE}/history?workflow=repairs"),
    ):
        checker.check(name, ann.get(path))
    for name, model in REQUESTS.items():
        operation = operations(description)[name][2]
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        fields = description["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
        example = {f: each["examples"][0] for f, each in fields.items() if "examples" in each}
        checker.fits(f"urn:api{reference}", {"seq": 1, **example} if "seq" in fields else example)
        assert example, model


PYTHON_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
}


def python_type(schema: Json) -> str:
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    if isinstance(schema.get("type"), list):
        return " | ".join(python_type({**schema, "type": kind}) for kind in schema["type"])
    if schema.get("type") == "array":
        return f"list[{python_type(schema['items'])}]"
    return PYTHON_TYPES.get(schema.get("type", ""), "Any")


def generated(description: Json) -> str:
    """A typed client of one call, made from nothing but the description."""
    lines = ["from __future__ import annotations", "from typing import Any, Literal, Required"]
    lines += ["from typing import TypedDict", "import httpx"]
    for name in ("RepairsTicket", "RepairsSubmission"):
        schema = description["components"]["schemas"][name]
        lines.append(f"class {name}(TypedDict, total=False):")
        for field, part in schema["properties"].items():
            kind = python_type(part)
            is_required = field in schema["required"]
            lines.append(f"    {field}: {f'Required[{kind}]' if is_required else kind}")
    method, path, operation = operations(description)["decide_ticket"]
    lines += [
        f"def {operation['operationId']}(client: httpx.Client, workflow: str,"
        " body: RepairsSubmission) -> Any:",
        f"    return client.request('{method.upper()}', f'{path}', json=body).json()",
    ]
    return "\n".join(lines) + "\n"


def test_a_typed_call_can_be_generated_checked_and_made(
    site: Site, description: Json, tmp_path: Path
) -> None:
    source = generated(description)
    (tmp_path / "generated.py").write_text(source)
    call = "decide_ticket(httpx.Client(), 'repairs', {'ticket_id': 'a', 'fields': {%s}})\n"
    head = "import httpx\nfrom generated import decide_ticket\n"
    good = "'opened_at': '2026-03-02T14:30:00Z', 'kind': 'leak', 'cost': 1.5"
    (tmp_path / "good.py").write_text(head + call % good)
    for number, bad in enumerate(
        ("'kind': 'leak'", f"{good}, 'lamps': 1", good.replace("leak", "lake"))
    ):
        (tmp_path / f"bad{number}.py").write_text(head + call % bad)
    assert _pyright(tmp_path, "good.py").returncode == 0, _pyright(tmp_path, "good.py").stdout
    assert _pyright(tmp_path, "bad0.py", "bad1.py", "bad2.py").stdout.count(" error: ") == 3
    namespace: Json = {}
    exec(compile(source, "generated.py", "exec"), namespace)  # generated above
    ticket = {"ticket_id": "typed", "fields": dict(TICKET)}
    answer = namespace["decide_ticket"](site.client(), "repairs", ticket)
    assert answer["band"] == "low"


def _pyright(folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *files],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
