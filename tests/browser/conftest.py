"""The server of the functional tests, for tests of what it promises."""

from tests.functional.conftest import site

__all__ = ["site"]
