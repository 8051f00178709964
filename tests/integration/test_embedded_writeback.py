"""What changed in a server's tables goes on its way to the disk at once, and nothing else does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tests.pages import are_written, write_pages

from tiebreak.embedded.writeback import Writeback


def test_what_changed_is_written(tmp_path: Path) -> None:
    table = tmp_path / "5" / "16384"
    table.parent.mkdir()
    write_pages(table)
    writeback = Writeback.of(tmp_path)
    assert writeback is not None
    assert writeback.look() == 1
    assert are_written(table)


def test_what_did_not_change_is_left_alone(tmp_path: Path) -> None:
    begun: list[str] = []

    def begin(number: int) -> None:
        begun.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)

    writeback = Writeback(tmp_path, begin)
    assert writeback.look() == 0
    (tmp_path / "5").mkdir()
    for name in ("1", "2"):
        (tmp_path / "5" / name).write_bytes(b"a page")
    assert writeback.look() == 2
    os.utime(tmp_path / "5" / "2", ns=(1, 1))
    assert writeback.look() == 1
    assert begun[2:] == ["2"]
    (tmp_path / "5" / "1").unlink()
    assert writeback.look() == 0


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    os.mkfifo(tmp_path / "5" / "pipe")  # opening it would wait for somebody who writes
    (tmp_path / "5" / "link").symlink_to(__file__)
    begun: list[int] = []
    looking = threading.Thread(target=Writeback(tmp_path, begun.append).look, daemon=True)
    looking.start()
    looking.join(5)
    assert not looking.is_alive()
    assert not begun
