"""The server of the functional tests, and its description, for tests of what it promises."""

import httpx
import pytest
from tests.contract.descriptions import Json
from tests.functional.conftest import site
from tests.functional.serving import Site

__all__ = ["site"]


@pytest.fixture
def description(site: Site) -> Json:
    return httpx.get(site.url + "/openapi.json").json()
