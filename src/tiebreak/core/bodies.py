"""JSON bodies: an object, or the reason why it is none. Nothing ambiguous gets through."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, cast

import orjson

from tiebreak.errors import Problem

MAX_PROBLEMS = 100  # of one input; a body of a million mistakes must not make a million objects

_SPACES = b" \t\r\n"
_TOO_DEEP = Problem("", "too_deep", "is nested too deeply", "fields hold no objects")

Problems = tuple[Problem, ...]


def load_object(body: bytes, depth: int) -> dict[str, Any] | Problems:
    """The JSON object in `body`; keys given twice in its upper `depth` levels are problems."""
    try:
        loaded = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return (_unreadable(body, error),)
    if not isinstance(loaded, dict):
        return (Problem("", "not_an_object", "must be a JSON object"),)
    fields = cast("dict[str, Any]", loaded)
    keys = len(fields)
    if depth == 2 and isinstance(nested := fields.get("fields"), dict):
        keys += len(cast("dict[str, Any]", nested))
    # Every key stands before a colon, so as many such places as keys means no key stands twice.
    if body.translate(None, _SPACES).count(b'":') != keys:
        return _repeated_keys(body) or fields
    return fields


def _repeated_keys(body: bytes) -> Problems:
    repeated: set[str] = set()

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            counted = Counter(name for name, _ in pairs)
            repeated.update(name[:80] for name, count in counted.items() if count > 1)
        return seen

    try:
        json.loads(body, object_pairs_hook=collect, parse_int=str, parse_float=str)
    except RecursionError:
        return (_TOO_DEEP,)
    return tuple(
        Problem(name, "duplicate_key", f"`{name}` stands more than once in an object", "keep one")
        for name in sorted(repeated)[:MAX_PROBLEMS]
    )


def _unreadable(body: bytes, error: orjson.JSONDecodeError) -> Problem:
    reason = error.msg.partition(":")[0]
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return Problem("", "invalid_utf8", f"is not UTF-8 at byte {fault.start}", "send UTF-8")
    if "depth" in reason or "recursion" in reason:
        return _TOO_DEEP
    where = f"line {error.lineno} column {error.colno}"
    if "surrogate" in reason:
        return Problem("", "lone_surrogate", f"holds a lone surrogate at {where}", "send UTF-8")
    hint = "NaN and infinities are not JSON" if re.search(rb"\b(NaN|Infinity)\b", body) else ""
    return Problem("", "not_json", f"is not JSON: {reason} at {where}", hint)
