"""YAML as workflows are written in it: a tree of plain values, each with its place in a file.

Stricter than YAML: plain `true`, `false`, numbers and null are what they look like, everything
else is text; keys stand once; anchors, aliases, merge keys and tags are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.nodes import Node as YamlNode

from tiebreak.core.unfit import Unfit
from tiebreak.core.values import check_characters
from tiebreak.errors import Problem

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 20

Plain = str | int | float | bool | None

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, Plain] = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a file; line and column count from 1."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in a workflow: where, what, and what to do about it."""

    place: Place
    code: str
    message: str
    hint: str = ""

    def as_problem(self) -> Problem:
        """The mistake as the problem that errors and answers carry."""
        return Problem(str(self.place), self.code, self.message, self.hint)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value; `raw` is its text in the file, quotes and block header included."""

    value: Plain
    place: Place
    raw: str = ""
    style: str = ""

    def place_of(self, position: int) -> Place:
        """Where the character at `position` of the text stands, also in folded and quoted text."""
        if not isinstance(self.value, str):
            return self.place
        index = _raw_index(self.raw, self.style, self.value, position)
        before = self.raw[:index]
        lines = before.count("\n")
        column = index - (before.rfind("\n") + 1)
        return Place(
            self.place.file,
            self.place.line + lines,
            column + 1 if lines else self.place.column + column,
        )


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping; `keys` holds the place of each key."""

    entries: dict[str, Node]
    keys: dict[str, Place]
    place: Place

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        return iter(self.entries.items())


Node = Scalar | Sequence | Mapping


def plain(node: Node) -> object:
    """The values of a tree without their places."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {name: plain(child) for name, child in node}


def descend(node: Node, path: tuple[str | int, ...]) -> Place:
    """The place of the node at `path`, or of the nearest node above it that exists.

    The last step of a path to a mapping's entry names the place of its value.
    """
    for step in path:
        if isinstance(node, Mapping) and str(step) in node.entries:
            node = node.entries[str(step)]
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            break
    return node.place


@dataclass(slots=True)
class Document:
    """What a file holds: its tree, unless it could not be read at all, and its mistakes."""

    root: Mapping | None = None
    mistakes: list[Mistake] = field(default_factory=list[Mistake])


def read_document(path: Path, name: str) -> Document:
    """Read one YAML file; `name` is how mistakes call it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        return Document(None, [Mistake(Place(name), "unreadable", f"cannot be read: {reason}")])
    return parse_document(data, name)


def parse_document(data: bytes, name: str) -> Document:
    """Parse the bytes of one YAML file; every mistake of form that can be found at once."""
    start = Place(name)
    if len(data) > MAX_FILE_BYTES:
        message = f"is larger than {MAX_FILE_BYTES:,} bytes"
        return Document(None, [Mistake(start, "too_large", message)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Document(None, [Mistake(Place(name, line), "invalid_utf8", "is not UTF-8")])
    try:
        root = yaml.compose(text, Loader=_Composer)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = start if mark is None else Place(name, mark.line + 1, mark.column + 1)
        message = error.problem or error.context or "is not YAML"
        return Document(None, [Mistake(place, "not_yaml", message, error.note or "")])
    except yaml.YAMLError as error:
        message = str(error).partition("\n")[0]
        return Document(None, [Mistake(start, "not_yaml", message, "remove control characters")])
    document = Document()
    if root is None:
        document.root = Mapping({}, {}, start)
        return document
    node = _Builder(text, name, document.mistakes).build(root)
    if isinstance(node, Mapping):
        document.root = node
    else:
        document.mistakes.append(Mistake(node.place, "wrong_type", "must be a mapping of keys"))
    return document


class _Composer(yaml.SafeLoader):
    """Composes nodes; refuses aliases, which could stand for very many nodes, and deep nesting."""

    depth = 0

    def compose_node(self, parent: YamlNode | None, index: int) -> YamlNode | None:
        event = self._next()
        if getattr(event, "anchor", None) is not None:
            self._refuse("anchors and aliases are not allowed", "write the value out")
        if getattr(event, "tag", None) is not None:
            self._refuse("tags are not allowed", "write a plain or a quoted value")
        if self.depth >= MAX_DEPTH:
            self._refuse(f"is nested more than {MAX_DEPTH} levels deep", "")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _next(self) -> yaml.Event:
        return cast("yaml.Event", self.peek_event())  # pyright: ignore[reportUnknownMemberType]

    def _refuse(self, message: str, hint: str) -> None:
        mark = cast("yaml.error.Mark | None", self._next().start_mark)
        raise yaml.MarkedYAMLError(problem=message, problem_mark=mark, note=hint)


class _Builder:
    """Turns YAML nodes into a tree and collects repeated and odd keys."""

    def __init__(self, text: str, file: str, mistakes: list[Mistake]) -> None:
        self._text = text
        self._file = file
        self._mistakes = mistakes

    def build(self, node: YamlNode) -> Node:
        place = Place(self._file, node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, ScalarNode):
            return self._scalar(node, place)
        if isinstance(node, SequenceNode):
            return Sequence(tuple(self.build(child) for child in node.value), place)
        assert isinstance(node, MappingNode)
        return self._mapping(node, place)

    def _scalar(self, node: ScalarNode, place: Place) -> Scalar:
        raw = self._text[node.start_mark.index : node.end_mark.index]
        try:
            check_characters(node.value)
        except Unfit as unfit:
            self._mistakes.append(Mistake(place, unfit.code, unfit.message, unfit.hint))
            return Scalar(None, place)
        if node.style is not None:
            return Scalar(node.value, place, raw, node.style)
        value = _resolved(node.value)
        if isinstance(value, float) and not math.isfinite(value):
            self._mistakes.append(Mistake(place, "not_finite", "is too large for a number"))
            value = None
        return Scalar(value, place, raw)

    def _mapping(self, node: MappingNode, place: Place) -> Mapping:
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            key_place = Place(self._file, mark.line + 1, mark.column + 1)
            if not isinstance(key_node, ScalarNode):
                self._mistakes.append(Mistake(key_place, "wrong_type", "a key must be a text"))
                continue
            name = key_node.value
            if name in entries:
                first = keys[name].line
                self._mistakes.append(
                    Mistake(
                        key_place,
                        "duplicate_key",
                        f"`{name}` stands here again, first in line {first}",
                        "keep one of them",
                    )
                )
                continue
            entries[name] = self.build(value_node)
            keys[name] = key_place
        return Mapping(entries, keys, place)


def _resolved(text: str) -> Plain:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return text


def _raw_index(raw: str, style: str, value: str, position: int) -> int:
    """The index in `raw` of the character at `position` of `value`.

    Folding changes white space only, so both hold the same other characters in the same order,
    after the header of a block or the opening quote, save for the escapes of quoted text.
    """
    wanted = sum(not character.isspace() for character in value[:position])
    index = 0
    if style in ("|", ">"):
        index = raw.find("\n") + 1
    elif style in ("'", '"'):
        index = 1
    while index < len(raw):
        if raw[index].isspace():
            index += 1
            continue
        if wanted == 0:
            return index
        if (style == "'" and raw[index] == "'") or (style == '"' and raw[index] == "\\"):
            index += 1
        index += 1
        wanted -= 1
    return len(raw)
