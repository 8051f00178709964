"""YAML as workflows are written in it: places are exact, and nothing surprising is read."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.workflows.source import (
    Mapping,
    Place,
    Scalar,
    descend,
    parse_document,
    plain,
    read_document,
)


def tree(text: str) -> Mapping:
    document = parse_document(textwrap.dedent(text).encode(), "w.yaml")
    assert document.mistakes == []
    assert document.root is not None
    return document.root


def mistakes(text: str | bytes) -> list[tuple[str, str]]:
    data = text if isinstance(text, bytes) else textwrap.dedent(text).encode()
    return [(str(m.place), m.code) for m in parse_document(data, "w.yaml").mistakes]


def test_plain_values_are_what_they_look_like() -> None:
    root = tree("""
        booleans: [true, false]
        numbers: [1, -7, 1.5, .5, 1e3]
        nulls: [null, ~, ]
        nothing:
        texts: [yes, no, on, off, 2017-01-31, 12:30, 0x10, 1_000, '1', "true", True, Null, nan]
        on: arrived
    """)
    assert plain(root) == {
        "booleans": [True, False],
        "numbers": [1, -7, 1.5, 0.5, 1000.0],
        "nulls": [None, None],
        "nothing": None,
        "texts": [
            "yes", "no", "on", "off", "2017-01-31", "12:30", "0x10", "1_000", "1", "true",
            "True", "Null", "nan",
        ],
        "on": "arrived",
    }  # fmt: skip


def test_places_count_from_one() -> None:
    root = tree("""\
        a:
          b: [x, y]
        c: z
    """)
    assert descend(root, ("a", "b", 1)) == Place("w.yaml", 2, 10)
    assert descend(root, ("a", "missing")) == Place("w.yaml", 2, 3)
    assert root.keys["c"] == Place("w.yaml", 3, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", [("w.yaml:2:1", "duplicate_key")]),
        ("a:\n  b: 1\n  b: 1\n", [("w.yaml:3:3", "duplicate_key")]),
        ("a: &x 1\n", [("w.yaml:1:4", "not_yaml")]),
        ("a: &x [1]\nb: [*x, *x]\n", [("w.yaml:1:4", "not_yaml")]),
        ("a: *x\n", [("w.yaml:1:4", "not_yaml")]),
        ("a: !!python/object:os.system x\n", [("w.yaml:1:4", "not_yaml")]),
        ("a: !!str 1\n", [("w.yaml:1:4", "not_yaml")]),
        ("a: [1\nb: 2\n", [("w.yaml:2:2", "not_yaml")]),
        ("a: 1\n---\nb: 1\n", [("w.yaml:2:1", "not_yaml")]),
        ("a: \x07\n", [("w.yaml:1:1", "not_yaml")]),
        ("- 1\n", [("w.yaml:1:1", "wrong_type")]),
        ("? [a]\n: 1\n", [("w.yaml:1:3", "wrong_type")]),
        ("a: 1e999\n", [("w.yaml:1:4", "not_finite")]),
        ('a: "x\\0y"\n', [("w.yaml:1:4", "nul_character")]),
        ('a: "\\ud800"\n', [("w.yaml:1:4", "lone_surrogate")]),
        ("a: " + "[" * 30 + "]" * 30, [("w.yaml:1:23", "not_yaml")]),
        ("a: " + "[" * 100_000, [("w.yaml:1:23", "not_yaml")]),
        (b"a: 1\nb: \xff\n", [("w.yaml:2:1", "invalid_utf8")]),
        (b"a: " + b"x" * 1_000_001, [("w.yaml:1:1", "too_large")]),
    ],
)  # fmt: skip
def test_what_is_refused(text: str | bytes, expected: list[tuple[str, str]]) -> None:
    assert mistakes(text) == expected


def test_an_empty_file_has_no_keys() -> None:
    assert plain(tree("# nothing yet\n")) == {}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    document = read_document(tmp_path / "none.yaml", "none.yaml")
    assert [m.code for m in document.mistakes] == ["unreadable"]


STYLES = {
    "plain": "when: a = 1 AND bb = 'c d'\n",
    "single": "when: 'a = 1 AND bb = ''c d'''\n",
    "single escapes": "when: 'a = ''c d'' AND bb = 1'\n",
    "double escapes": 'when: "a = \\"c d\\" AND bb = 1"\n',
    "double": "when: \"a = 1 AND bb = 'c d'\"\n",
    "folded": "when: >-\n  a = 1\n  AND bb =\n    'c d'\n",
    "literal": "when: |\n\n  a = 1\n  AND  bb\n  = 'c d'\n",
    "plain lines": "when: a = 1\n  AND bb\n  = 'c d'\n",
    "flow": "{x: 1, when: a = 1 AND bb = 'c d'}\n",
}


@pytest.mark.parametrize("style", STYLES)
def test_a_position_in_a_text_is_found_in_the_file(style: str) -> None:
    text = STYLES[style]
    root = tree(text)
    scalar = root.entries["when"]
    assert isinstance(scalar, Scalar)
    assert isinstance(scalar.value, str)
    place = scalar.place_of(scalar.value.index("bb"))
    line = text.splitlines()[place.line - 1]
    assert line[place.column - 1 :].startswith("bb")


@given(
    st.lists(st.sampled_from(["a", "bb", "'c'", '"', "\\", ">=", "é"]), min_size=1, max_size=12),
    st.sampled_from([">-", "|", ">+2"]),
    st.data(),
)
def test_positions_in_blocks_are_exact(words: list[str], header: str, data: st.DataObject) -> None:
    separators = [data.draw(st.sampled_from([" ", "\n  ", "  "])) for _ in words]
    body = "".join(word + sep for word, sep in zip(words, separators, strict=True)).rstrip()
    text = f"k: {header}\n  {body}\n"
    scalar = tree(text).entries["k"]
    assert isinstance(scalar, Scalar)
    assert isinstance(scalar.value, str)
    for position, character in enumerate(scalar.value):
        if not character.isspace():
            place = scalar.place_of(position)
            assert text.splitlines()[place.line - 1][place.column - 1] == character
