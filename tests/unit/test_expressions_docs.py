"""docs/expressions.md says what is so: every example evaluates as stated, nothing is left out."""

from __future__ import annotations

import ast
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tiebreak.core.expressions import Scope, Symbol, Type, casts, compile_expression, tokens, wkt
from tiebreak.core.expressions.functions import FUNCTIONS
from tiebreak.core.workflow import Calendar

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "expressions.md").read_text(encoding="utf-8")
SOURCES = ROOT / "src" / "tiebreak" / "core" / "expressions"
ROW: dict[str, tuple[Symbol, Any]] = {
    "a": (Symbol(Type.INTEGER), 7),
    "b": (Symbol(Type.INTEGER), -2),
    "big": (Symbol(Type.INTEGER), 2**63 - 1),
    "zero": (Symbol(Type.INTEGER), 0),
    "none": (Symbol(Type.INTEGER), None),
    "x": (Symbol(Type.NUMBER), 2.5),
    "lat": (Symbol(Type.NUMBER), 42.3601),
    "lon": (Symbol(Type.NUMBER), -71.0589),
    "huge": (Symbol(Type.NUMBER), 1e308),
    "name": (Symbol(Type.TEXT), "Müller  GmbH"),
    "no_text": (Symbol(Type.TEXT), None),
    "priority": (Symbol(Type.TEXT, values=("normal", "rush", "emergency")), "rush"),
    "yes": (Symbol(Type.BOOLEAN), True),
    "unknown": (Symbol(Type.BOOLEAN), None),
    "opened_at": (Symbol(Type.TIMESTAMP), datetime(2024, 7, 4, 3, 30, tzinfo=UTC)),
    "due_at": (Symbol(Type.TIMESTAMP), datetime(2024, 7, 9, 15, 30, tzinfo=UTC)),
    "day": (Symbol(Type.DATE), date(2024, 7, 6)),
    "tags": (Symbol(Type.TAGS, values=("gas", "water", "fibre")), ["gas", "water"]),
    "no_tags": (Symbol(Type.TAGS), None),
}
SYMBOLS = {name: symbol for name, (symbol, _) in ROW.items()}
CALENDAR = Calendar(timezone="America/New_York", holidays=(date(2024, 7, 4), date(2024, 12, 25)))
FRAME = pl.DataFrame(
    {name: [value] for name, (_, value) in ROW.items()},
    schema={name: symbol.type.dtype for name, symbol in SYMBOLS.items()},
)


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def examples() -> list[tuple[str, str]]:
    """The rows of all tables headed `expression | result`."""
    found: list[tuple[str, str]] = []
    is_inside = False
    for line in PAGE.splitlines():
        if line.startswith("| expression | result |"):
            is_inside = True
        elif not line.startswith("|"):
            is_inside = False
        elif is_inside and not line.startswith("| ---"):
            sql, result = cells(line)
            found.append((sql.strip("`"), result))
    return found


def stated(result: str) -> tuple[Any, str | None]:
    """Value and reason as the page writes them."""
    if found := re.fullmatch(r"error `(\w+)`", result):
        return None, found[1]
    if result in ("TRUE", "FALSE", "NULL"):
        return {"TRUE": True, "FALSE": False, "NULL": None}[result], None
    text = result.strip("`")
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return date.fromisoformat(text), None
    return ast.literal_eval(text), None


def test_there_are_examples() -> None:
    assert len(examples()) > 120


@pytest.mark.parametrize(("sql", "result"), examples())
def test_the_example_evaluates_as_stated(sql: str, result: str) -> None:
    compiled = compile_expression(sql, Scope(SYMBOLS, CALENDAR))
    value = FRAME.select(compiled.value.alias("v")).item()
    error = None if compiled.error is None else FRAME.select(compiled.error.alias("e")).item()
    wanted, reason = stated(result)
    assert (value, error) == (wanted, reason)
    assert type(value) is type(wanted)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_function_is_documented_with_its_signature_and_an_example(name: str) -> None:
    shown = FUNCTIONS[name].signature
    assert f"`{shown}`" in PAGE, shown
    assert any(re.search(rf"\b{name}\(", sql) for sql, _ in examples())


def test_every_type_name_limit_and_reserved_word_is_documented() -> None:
    for name in casts.TYPE_NAMES:
        assert f"`{name}`" in PAGE
    assert f"{tokens.MAX_CHARACTERS:,} characters, {tokens.MAX_TOKENS:,} words" in PAGE
    assert f"{wkt.MAX_POSITIONS} positions" in PAGE
    for word in tokens.RESERVED:
        assert re.search(rf"\b{word.upper()}\b", PAGE), word


def test_the_reasons_are_those_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCES.glob("*.py"))
    used = set(re.findall(r'(?:code_where|_failed)\([^"]*, "(\w+)"\)', code))
    table = PAGE.split("| reason | when |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == used
