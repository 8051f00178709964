"""Lets Schemathesis send JSON lines: each text that it makes up is a body as it is."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_context: object, value: object) -> bytes:
    return str(value).encode(errors="replace")
