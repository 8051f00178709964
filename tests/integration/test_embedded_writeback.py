"""What tables have grown by goes on its way to the disk at once, and nothing else does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tests.pages import are_written, write_pages

from tiebreak.embedded.writeback import Writeback


def test_new_pages_are_written(tmp_path: Path) -> None:
    table = tmp_path / "5" / "16384"
    table.parent.mkdir()
    (tmp_path / "a file among the folders").touch()
    writeback = Writeback.of(tmp_path)
    assert writeback is not None
    writeback.look()
    write_pages(table)
    writeback.look()
    assert are_written(table)


def test_it_begins_with_what_there_is_more_and_with_nothing_else(tmp_path: Path) -> None:
    begun: list[tuple[str, int, int]] = []

    def begin(number: int, first: int, count: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{number}")).name
        begun.append((name, first, count))

    folder = tmp_path / "5"
    folder.mkdir()
    (folder / "1").write_bytes(b"old")
    writeback = Writeback(tmp_path, begin)
    writeback.look()
    assert begun == []
    (folder / "1").write_bytes(b"old and new")
    (folder / "2").write_bytes(b"a page")
    writeback.look()
    assert sorted(begun) == [("1", 3, 8), ("2", 0, 6)]
    (folder / "1").write_bytes(b"OLD and NEW")
    (folder / "2").write_bytes(b"")
    writeback.look()
    (folder / "2").write_bytes(b"page")
    (folder / "1").unlink()
    writeback.look()
    assert begun[2:] == [("2", 0, 4)]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    begun: list[int] = []
    writeback = Writeback(tmp_path, lambda number, _first, _count: begun.append(number))
    writeback.look()
    (tmp_path / "5").mkdir()
    os.mkfifo(tmp_path / "5" / "pipe")  # opening it would wait for somebody who writes
    (tmp_path / "5" / "link").symlink_to(__file__)
    looking = threading.Thread(target=writeback.look, daemon=True)
    looking.start()
    looking.join(5)
    assert not looking.is_alive()
    assert not begun


def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    writeback = Writeback.of(tmp_path / "none")
    assert writeback is not None
    with pytest.raises(FileNotFoundError):
        writeback.look()
