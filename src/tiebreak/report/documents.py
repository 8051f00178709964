"""Documents: the same sections as one page of HTML, or as Markdown with its drawings beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tiebreak.report.page import markdown_table, page, plain, table


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document: sentences, a table, a drawing, each where there is one."""

    title: str
    said: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    drawing: str = ""  # SVG


def html(title: str, sections: Sequence[Section]) -> str:
    """The document as one page that needs nothing else."""
    parts = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [f"<p>{escape(sentence)}</p>" for sentence in section.said]
        if section.rows:
            parts.append(table(section.columns, section.rows))
        parts.append(section.drawing)
    return page(title, parts)


def markdown(title: str, sections: Sequence[Section], stem: str) -> dict[str, str]:
    """The files of the document: `stem`.md, and a drawing a file."""
    files: dict[str, str] = {}
    parts = [f"# {plain(title)}"]
    for section in sections:
        parts.append(f"## {plain(section.title)}")
        parts += [plain(sentence) for sentence in section.said]
        if section.rows:
            parts.append(markdown_table(section.columns, section.rows))
        if section.drawing:
            name = f"{stem}-{len(files) + 1}.svg"
            files[name] = section.drawing
            parts.append(f"![{plain(section.title)}]({name})")
    return {f"{stem}.md": "\n\n".join(parts) + "\n", **files}


def written(file: Path, title: str, sections: Sequence[Section]) -> dict[Path, str]:
    """What is to be written where: Markdown for a name that ends in .md, else HTML."""
    if file.suffix != ".md":
        return {file: html(title, sections)}
    files = markdown(title, sections, file.stem)
    return {file.parent / name: text for name, text in files.items()}
