"""However a workflow's files are damaged, checking them gives mistakes, never an exception."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.workflows.check import check_folder

FILES = {path.name: path.read_text() for path in Path("workflows/boston311").glob("*.yaml")}
SPOTS = [
    (name, found.start(), found.end())
    for name, text in sorted(FILES.items())
    for found in re.finditer(r"[\w.'-]+|[\[\]{}:,]|\n +", text)
]
WORDS = st.sampled_from(
    ["", "null", "true", "7", "-1.5", "[]", "{}", "'", '"', ":", "- ", "&a", "*a", "!!x", "\n",
     "timestamp", "as_of", "case", "count", "open", "9" * 400, "é", "\x00", "sql", "name"]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SPOTS), WORDS), min_size=1, max_size=3))
def test_damaged_files_give_mistakes_with_places(
    damage: list[tuple[tuple[str, int, int], str]],
) -> None:
    files = dict(FILES)
    for (name, start, end), word in sorted(damage, reverse=True):
        files[name] = files[name][:start] + word + files[name][end:]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        checked = check_folder(Path(folder))
    for mistake in checked.mistakes:
        assert mistake.message
        assert 1 <= mistake.place.line <= files[mistake.place.file].count("\n") + 2
