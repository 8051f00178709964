"""The page at /docs shows the API in a browser that reaches nothing but the server itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Route, sync_playwright
from tests.functional.serving import TICKET, Site

from tiebreak.access.roles import Role

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]


@pytest.fixture
def page() -> Generator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("NO BROWSER: install chromium, or /docs goes untested")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser.new_page(viewport={"width": 1280, "height": 1600})
        browser.close()


def test_the_page_lists_every_operation_without_the_internet(
    site: Site, page: Page, tmp_path: Path
) -> None:
    strangers: list[str] = []
    messages: list[str] = []

    def allow(route: Route) -> None:
        if route.request.url.startswith((site.url, "data:")):
            route.continue_()
        else:
            strangers.append(route.request.url)
            route.abort()

    page.route("**/*", allow)
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(site.url + "/docs")
    page.wait_for_selector("#operations-decisions-decide_ticket")
    operations = page.locator(".opblock").count()
    page.screenshot(path=str(tmp_path / "docs.png"), full_page=True)
    described = httpx.get(site.url + "/openapi.json").json()["paths"]
    assert operations == sum(len(methods) for methods in described.values()) > 30
    assert strangers == []
    assert messages == []
    assert page.title() == "Tiebreak API"


def test_a_ticket_can_be_decided_from_the_page(site: Site, page: Page) -> None:
    page.goto(site.url + "/docs")
    page.click("button.authorize")
    page.fill(".auth-container input", site.tokens[Role.SERVICE])
    page.click(".auth-btn-wrapper button.authorize")
    page.click(".auth-btn-wrapper button.btn-done")
    page.click("#operations-decisions-decide_ticket .opblock-summary")
    block = page.locator("#operations-decisions-decide_ticket")
    block.locator("tr[data-param-name=workflow] input").fill("repairs")
    ticket = {"ticket_id": "page", "fields": dict(TICKET)}
    block.locator("textarea.body-param__text").fill(json.dumps(ticket))
    block.locator("button.execute").click()
    block.locator(".live-responses-table .response-col_status >> text=200").wait_for()
    assert "decision_id" in block.locator(".live-responses-table").inner_text()
