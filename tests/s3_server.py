"""An S3 server in a process of its own: moto, one request at a time, and faults on demand.

    python -m tests.s3_server PORT

One at a time because moto looks whether an object exists and then writes it; S3 does both at once.
`PUT /-/fault` with the name of a fault in its body makes every later request meet it: `error`,
`silence`, `cut`, `drip`, `garble` (the last byte of an answer is another one), or `conflict 2` (as
many writes of what must be new are told that another one is under way).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple

SLOW_SECONDS = 30.0
DRIP_SECONDS = 0.2
CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>Another.</Message></Error>"

Answer = Callable[..., Any]


class Server:
    """The WSGI application."""

    def __init__(self) -> None:
        self._s3 = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._fault = ""
        self._conflicts = 0

    def __call__(self, environment: dict[str, Any], answer: Answer) -> Iterable[bytes]:
        """Answer a request."""
        if environment["PATH_INFO"] == "/-/fault":
            length = int(environment["CONTENT_LENGTH"] or 0)
            self._fault, _, times = environment["wsgi.input"].read(length).decode().partition(" ")
            self._conflicts = int(times or 0)
            answer("200 OK", [("Content-Length", "0")])
            return [b""]
        if self._fault == "error":
            answer("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if self._fault == "silence":
            time.sleep(SLOW_SECONDS)
        if self._conflicts and "HTTP_IF_NONE_MATCH" in environment:
            self._conflicts -= 1
            answer("409 Conflict", [("Content-Length", str(len(CONFLICT)))])
            return [CONFLICT]
        with self._lock:
            body = b"".join(self._s3(environment, answer))
        if self._fault == "cut":
            return [body[: len(body) // 2]]
        if self._fault == "garble":
            return [body[:-1] + bytes([body[-1] ^ 1])]
        return _drops(body) if self._fault == "drip" else [body]


def _drops(body: bytes) -> Iterable[bytes]:
    for start in range(0, len(body), 100):
        time.sleep(DRIP_SECONDS)
        yield body[start : start + 100]


if __name__ == "__main__":
    run_simple(
        "127.0.0.1", int(sys.argv[1]), Server(), threaded=True, request_handler=MotoRequestHandler
    )
