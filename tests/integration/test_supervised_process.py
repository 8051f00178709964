"""A supervised process gets its job and nothing else, tells lines and bytes, and always ends."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tiebreak.supervised.process import ENVIRONMENT, ProcessEnded, Supervised, supervised

HEAD = """
import os, sys
from tiebreak.supervised.limits import allow_cpu, confine
from tiebreak.supervised.told import Teller
teller = Teller.on_standard_output()
job = sys.stdin.buffer.read()
"""
Made = dict[str, str]


def program(folder: Path, source: str) -> Made:
    """An environment in which `program` is this source."""
    (folder / "program.py").write_text(HEAD + source)
    return {**ENVIRONMENT, "PYTHONPATH": str(folder)}


async def told(made: Made, job: bytes = b"") -> list[dict[str, Any]]:
    async with asyncio.timeout(30), supervised("program", job, made) as child:
        return [line async for line in child.lines()]


async def ended(made: Made) -> ProcessEnded:
    with pytest.raises(ProcessEnded) as caught:
        await told(made, b"x" * 20)
    return caught.value


async def test_what_libraries_print_does_not_mix_with_what_is_told(tmp_path: Path) -> None:
    made = program(
        tmp_path,
        'print("noise"); os.system("echo noise"); teller.say({"size": len(job)}); print("noise")',
    )
    assert await told(made, b"x" * 3_000_000) == [{"size": 3_000_000}]


async def test_bytes_come_whole(tmp_path: Path) -> None:
    made = program(tmp_path, "teller.hand_over(job * 2)")
    async with supervised("program", b"ab" * 1_000_000, made) as child:
        assert await _payload(child) == b"ab" * 2_000_000


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('teller.say({"bytes": 9, "sha256": ""}); teller._out.write(b"short")', "code 0"),
        ('teller.say({"bytes": 2, "sha256": "00"}); teller._out.write(b"ab")', "code 0"),
        ('teller.hand_over(b"whole"); sys.exit(4)', "code 4"),
    ],
)
async def test_bytes_that_are_not_what_was_announced_are_refused(
    tmp_path: Path, source: str, words: str
) -> None:
    async with supervised("program", b"", program(tmp_path, source)) as child:
        with pytest.raises(ProcessEnded, match=words):
            await _payload(child)


async def _payload(child: Supervised) -> bytes:
    """The bytes that the first line announces."""
    return await child.payload(await anext(child.lines()))


async def test_its_environment_is_what_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "not for it")
    made = program(tmp_path, 'teller.say({"names": sorted(os.environ), "group": os.getpgid(0)})')
    (line,) = await told(made)
    assert line["names"] == sorted(made)
    assert line["group"] != os.getpgid(0)


async def test_how_it_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    by_code = await ended(
        program(tmp_path, 'sys.stderr.write("x" * 9000 + "the end"); os._exit(3)')
    )
    assert (by_code.exit_code, by_code.message) == (3, "The process ended with code 3.")
    assert by_code.last_words.endswith("the end")
    assert len(by_code.last_words) < 9000
    by_signal = await ended(program(tmp_path, "os.abort()"))
    assert by_signal.message == "The process ended by SIGABRT."


@pytest.mark.parametrize(
    ("source", "exit_code"),
    [
        ("confine(300 << 20); bytearray(1 << 30)", 1),
        ("allow_cpu(1)\nwhile True: pass", -24),
        ("confine(1 << 30, 10)\nf = open('{folder}/f', 'wb', 0)\nfor _ in job: f.write(b'x')", 1),
    ],
)
async def test_limits_hold(tmp_path: Path, source: str, exit_code: int) -> None:
    made = program(tmp_path, source.replace("{folder}", str(tmp_path)))
    assert (await ended(made)).exit_code == exit_code


@pytest.mark.parametrize(
    ("error", "is_short"),
    [
        ("MemoryError()", True),
        ("ImportError('std::bad_alloc')", True),
        ("SystemError('error return without exception set')", False),
    ],
)
async def test_an_error_that_says_so_comes_of_short_memory(
    tmp_path: Path, error: str, is_short: bool
) -> None:
    source = "from tiebreak.supervised.failures import is_short_of_memory\nconfine(300 << 20)\n"
    made = program(tmp_path, f'{source}teller.say({{"short": is_short_of_memory({error})}})')
    assert await told(made) == [{"short": is_short}]


async def test_any_error_of_a_process_whose_memory_is_full_comes_of_it(tmp_path: Path) -> None:
    made = program(
        tmp_path,
        "import mmap, time\nfrom tiebreak.supervised.failures import is_short_of_memory\n"
        "confine(300 << 20)\nheld = mmap.mmap(-1, 290 << 20, mmap.MAP_PRIVATE)\n"
        'teller.say({"short": is_short_of_memory(SystemError("x"))})\ntime.sleep(60)',
    )
    async with asyncio.timeout(30), supervised("program", b"", made) as child:
        assert await anext(child.lines()) == {"short": True}
        assert child.takes_more_than(1 << 40)


async def test_it_and_what_it_started_are_over_at_the_end_of_the_block(tmp_path: Path) -> None:
    made = program(
        tmp_path,
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'other = subprocess.Popen(["/bin/sleep", "60"])\n'
        'teller.say({"pids": [os.getpid(), other.pid]})\ntime.sleep(60)',
    )
    async with supervised("program", b"", made) as child:
        line = await anext(child.lines())
        assert line["pids"][0] == child.pid
        assert child.takes_more_than(1 << 20)
        assert not child.takes_more_than(1 << 40)
    assert not child.takes_more_than(1 << 20)
    deadline = time.monotonic() + 5
    while any(_lives(pid) for pid in line["pids"]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_one_that_does_not_take_its_job_is_told_of(tmp_path: Path) -> None:
    async with supervised("nothing_of_this_name", b"x" * 3_000_000) as child:
        assert isinstance(child, Supervised)
        with pytest.raises(ProcessEnded, match="code 1"):
            _ = [line async for line in child.lines()]


async def test_one_that_says_more_than_anybody_reads_ends_all_the_same(tmp_path: Path) -> None:
    made = program(tmp_path, 'teller.say({"begun": 1}); teller.say_bytes(b"x" * 10_000_000)')
    async with asyncio.timeout(30):
        async with supervised("program", b"", made) as child:
            await anext(child.lines())
            await asyncio.sleep(1)


async def test_the_goodbyes_of_libraries_hold_nobody_up(tmp_path: Path) -> None:
    made = program(
        tmp_path,
        """
import atexit, threading, time
atexit.register(time.sleep, 600)
threading.Thread(target=time.sleep, args=(600,)).start()
teller.hand_over(job)
teller.end()
""",
    )
    async with asyncio.timeout(30), supervised("program", b"whole", made) as child:
        assert await _payload(child) == b"whole"
