"""Pages of a report: HTML in one file, and Markdown beside its drawings."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def page(title: str, parts: Sequence[str]) -> str:
    """A page of HTML that needs nothing else; `parts` are HTML already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts; without a head where all columns are nameless."""
    names = "".join(f"<th>{escape(column)}</th>" for column in columns)
    head = f"<thead><tr>{names}</tr></thead>" if any(columns) else ""
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    return "".join(f"\\{mark}" if mark in _MARKS else mark for mark in text)


def _cell(text: str) -> str:
    return plain(text) if text != "---" else text


_MARKS = "\\`*_{}[]<>#|"
_STYLE = (
    "body{font-family:system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1f2328;background:#fff}table{border-collapse:collapse;margin:1rem 0}"
    "td,th{border:1px solid #d0d7de;padding:.25rem .6rem;text-align:left}"
    "svg{display:block;max-width:100%;height:auto;margin:1rem 0}p{word-break:break-word}"
)
