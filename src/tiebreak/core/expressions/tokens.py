"""From text to tokens, within bounds of length, count and nesting."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from tiebreak.core.expressions.mistakes import SyntaxMistake

MAX_CHARACTERS = 4_000
MAX_TOKENS = 1_000

_PATTERN = re.compile(
    r"""(?P<skip>[ \t\r\n]+|--[^\n]*|/\*.*?\*/)
      | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<text>'(?:[^']|'')*')
      | (?P<symbol>\|\||//|::|<>|!=|<=|>=|==|[-+*/%=<>(),])""",
    re.VERBOSE | re.DOTALL,
)
RESERVED = frozenset(
    """and or not in is like ilike escape between case when then else end
    null true false""".split()  # noqa: SIM905
)


class Kind(Enum):
    """What a token is."""

    NUMBER = auto()
    NAME = auto()  # a name, folded to lower case
    WORD = auto()  # a reserved word, folded to lower case
    TEXT = auto()  # a quoted text, unquoted
    SYMBOL = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and where it begins and ends in the text."""

    kind: Kind
    text: str
    position: int
    end: int
    is_quoted: bool = False


def tokenize(sql: str) -> list[Token]:
    """The tokens of the text, with an END token last; raises `SyntaxMistake`."""
    if len(sql) > MAX_CHARACTERS:
        raise SyntaxMistake(
            f"the expression has {len(sql):,} characters, at most {MAX_CHARACTERS:,} are allowed",
            MAX_CHARACTERS,
            "split it into features",
        )
    tokens: list[Token] = []
    at = 0
    while at < len(sql):
        found = _PATTERN.match(sql, at)
        if found is None:
            raise _unreadable(sql, at)
        if found.lastgroup != "skip":
            tokens.append(_token(found))
            _check_neighbour(sql, found)
        at = found.end()
        if len(tokens) > MAX_TOKENS:
            raise SyntaxMistake(
                f"the expression has more than {MAX_TOKENS:,} words and symbols",
                tokens[-1].position,
                "split it into features",
            )
    return [*tokens, Token(Kind.END, "", len(sql), len(sql))]


def _token(found: re.Match[str]) -> Token:
    text, start, end = found.group(), found.start(), found.end()
    match found.lastgroup:
        case "number":
            return Token(Kind.NUMBER, text, start, end)
        case "name":
            folded = text.lower()
            return Token(Kind.WORD if folded in RESERVED else Kind.NAME, folded, start, end)
        case "quoted":
            return Token(Kind.NAME, text[1:-1].replace('""', '"'), start, end, is_quoted=True)
        case "text":
            return Token(Kind.TEXT, _clean(text[1:-1].replace("''", "'"), start), start, end)
        case _:
            return Token(Kind.SYMBOL, text, start, end)


def _clean(text: str, position: int) -> str:
    if any(ch == "\0" or "\ud800" <= ch <= "\udfff" for ch in text):
        raise SyntaxMistake("the text holds a NUL or half a surrogate pair", position)
    return text


def _check_neighbour(sql: str, found: re.Match[str]) -> None:
    """`1abc` and `'it's'` are slips of the pen, not two tokens side by side."""
    following = sql[found.end() : found.end() + 1]
    if found.lastgroup == "number" and (following.isalnum() or following in {"_", "."}):
        raise SyntaxMistake(
            f"`{found.group()}{following}` is no number",
            found.start(),
            "write digits, an optional point and an optional exponent: 12, 0.5, 1e6",
        )


def _unreadable(sql: str, at: int) -> SyntaxMistake:
    char = sql[at]
    if char == "'":
        return SyntaxMistake("the text is not closed", at, "end it with ', and write ' as ''")
    if char == '"':
        return SyntaxMistake("the name is not closed", at, 'end it with "')
    if sql.startswith("/*", at):
        return SyntaxMistake("the comment is not closed", at, "end it with */")
    hints = {
        ";": "write one expression only",
        "[": "there are no lists; use has(tags, 'x') or x IN ('a', 'b')",
        ".": "names stand alone, without a table before them",
        "^": "there is no power operator; multiply",
        "&": "write AND",
        "|": "write OR, or || to join texts",
        "!": "write NOT",
        "~": "regular expressions are not allowed; use LIKE, contains or starts_with",
    }
    return SyntaxMistake(f"unexpected character {char!r}", at, hints.get(char, ""))
