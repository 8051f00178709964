"""Fixtures of functional tests: one server a module, with a database of its own."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.databases import DatabaseUrls
from tests.functional.serving import Site, prepare, serving, settings_for

from tiebreak.settings import Keyring


@pytest.fixture
def site(database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path) -> Generator[Site]:
    """A server with the workflow `repairs` in production by rules alone."""
    tokens = prepare(database_urls, keyring)
    settings = settings_for(database_urls, tmp_path)
    with serving(settings, keyring) as (url, _):
        found = Site(url, settings, keyring, database_urls, tokens)
        yield found
        found.close()
