"""How a supervised process starts: it dies with its parent, however that ends.

    python -m tiebreak.supervised.start PARENT_PID MODULE [ARGUMENTS]

The kernel kills it when the thread that started it ends, and so each process that it forks. What
it had not finished is found at the next start.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def main() -> None:
    """Run a module as the main program, tied to its parent."""
    parent, module, *arguments = sys.argv[1:]
    die_with_parent()
    if os.getppid() != int(parent):  # it ended before it was watched
        sys.exit(1)
    os.register_at_fork(after_in_child=die_with_parent)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
