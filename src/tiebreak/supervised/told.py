"""What a supervised process tells its parent: JSON lines, and at last maybe some bytes.

    {"step": …}\n … {"bytes": 3, "sha256": "…"}\n abc

The bytes come after the line that announces them, and are checked against their hash.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

import orjson

LINE_BYTES = 1 << 20


class Teller:
    """The process's side; whatever else it or its libraries print goes to standard error."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    @classmethod
    def on_standard_output(cls) -> Teller:
        """Take standard output for what is told, and for nothing else from now on."""
        out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        return cls(out)

    def say(self, line: Mapping[str, Any]) -> None:
        """Tell one line."""
        self.say_bytes(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def say_bytes(self, line: bytes) -> None:
        """Tell one line that was written before."""
        self._out.write(line)
        self._out.flush()

    def hand_over(self, data: bytes) -> None:
        """Tell these bytes; nothing may be told after them."""
        self.say({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        self._out.write(data)
        self._out.flush()

    def end(self) -> NoReturn:
        """End the process well and at once: all is told, and libraries may hang in their goodbyes.

        They have threads of their own, which an orderly exit can wait for and never see end.
        """
        sys.stderr.flush()
        os._exit(0)
