"""The cage: what a process may still do once it has asked for little, forever and for all threads.

After `lock` the kernel refuses the process every call but computing, reading standard input and
writing standard output: no file can be opened, made or removed, no socket, no process or thread
started, no other process seen or signalled. It needs no privilege, and no privilege undoes it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct

from tiebreak.errors import Unavailable

MEMORY_BYTES = 3 << 30
CPU_SECONDS = 240

_NO_NEW_PRIVILEGES, _PARENT_DEATH, _KILL = 38, 1, 9  # of prctl
_SECCOMP, _SET_FILTER, _ALL_THREADS = 317, 1, 1
_X86_64 = 0xC000003E
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # EPERM
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # where in seccomp_data
_READ, _WRITE, _INPUT, _OUTPUT = 0, 1, 0, 1
_ALLOWED = (
    3,  # close
    5,  # fstat
    8,  # lseek
    9,  # mmap
    10,  # mprotect
    11,  # munmap
    12,  # brk
    13,  # rt_sigaction
    14,  # rt_sigprocmask
    15,  # rt_sigreturn
    24,  # sched_yield
    25,  # mremap
    28,  # madvise
    35,  # nanosleep
    39,  # getpid
    60,  # exit
    96,  # gettimeofday
    98,  # getrusage
    131,  # sigaltstack
    186,  # gettid
    202,  # futex
    204,  # sched_getaffinity
    228,  # clock_gettime
    230,  # clock_nanosleep
    231,  # exit_group
    318,  # getrandom
)


class CageMissing(Unavailable):
    """This machine cannot lock a process in, and so opens no pickle."""

    code = "cage_missing"


def lock() -> None:
    """Lock this process in, all its threads; raises CageMissing where the kernel cannot."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise CageMissing(hint="Import it on Linux on x86-64, then bring the bundle here.")
    for limit, most in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(_filter())
    instructions = (len(program) - 1) // 8
    told = struct.pack("HxxxxxxP", instructions, ctypes.addressof(program))
    done = libc.prctl(_PARENT_DEATH, _KILL, 0, 0, 0) or libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if done or libc.syscall(_SECCOMP, _SET_FILTER, _ALL_THREADS, told):
        raise CageMissing(
            hint="The kernel refuses a seccomp filter "
            f"({os.strerror(ctypes.get_errno())}): import it on another machine."
        )


def _filter() -> bytes:
    """The filter as a BPF program: a list of calls that are allowed, all else fails with EPERM."""
    refuse = _instruction(_RETURN, value=_REFUSE)
    allow = _instruction(_RETURN, value=_ALLOW)
    lines = [
        _instruction(_LOAD, value=_ARCHITECTURE),
        _instruction(_EQUAL, 1, 0, _X86_64),
        refuse,
        _instruction(_LOAD, value=_NUMBER),
    ]
    for call in _ALLOWED:
        lines += [_instruction(_EQUAL, 0, 1, call), allow]
    for call, file_number in ((_READ, _INPUT), (_WRITE, _OUTPUT)):
        lines += [
            _instruction(_EQUAL, 0, 4, call),
            _instruction(_LOAD, value=_FIRST_ARGUMENT),
            _instruction(_EQUAL, 0, 1, file_number),
            allow,
            refuse,
        ]
    return b"".join([*lines, refuse])


def _instruction(code: int, if_true: int = 0, if_false: int = 0, value: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
