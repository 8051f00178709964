"""What the running API says of itself."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True)
class Readiness:
    """The answer of `/readyz`: `ready`, `degraded`, `not_ready`, or `unreachable` without one."""

    status: str
    problems: tuple[dict[str, Any], ...] = ()
    warnings: tuple[dict[str, Any], ...] = ()  # what people are late with

    @property
    def is_answered(self) -> bool:
        """Whether a worker answered at all."""
        return self.status != "unreachable"


def ask(host: str, port: int, timeout_seconds: float = 5) -> Readiness:
    """Ask the API whether it is ready."""
    link = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        link.request("GET", "/readyz")
        told = orjson.loads(link.getresponse().read())
        told = {"problems": (), "warnings": (), **told}
        return Readiness(str(told["status"]), tuple(told["problems"]), tuple(told["warnings"]))
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError, KeyError):
        return Readiness("unreachable")
    finally:
        link.close()
