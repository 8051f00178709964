"""The OpenMP library that LightGBM needs, also where the machine has none."""

from __future__ import annotations

import ctypes
import os
from importlib.metadata import files
from pathlib import Path

from tiebreak.errors import Unavailable

NAME = "libgomp.so.1"
_CARRIER = "xgboost-cpu"  # its wheel brings a copy, under a name of its own


class OpenmpMissing(Unavailable):
    """LightGBM needs the OpenMP library libgomp.so.1, which this machine lacks."""

    code = "openmp_missing"


def provide_openmp() -> None:
    """Loads libgomp.so.1 into this process, the machine's or the carried one; OpenmpMissing.

    The dynamic linker takes a library that is loaded already for one that is asked for when its
    soname is the wanted one. Wheels rename the copies they carry, soname included, so that name
    is put back, in memory: nothing is written and no environment is changed.
    """
    try:
        ctypes.CDLL(NAME)
    except OSError:
        _load(_carried())


def _carried() -> Path:
    found = [file for file in files(_CARRIER) or () if file.name.startswith("libgomp-")]
    if not found:
        raise OpenmpMissing(hint="Install libgomp1, or train with `--family xgboost`.")
    return Path(str(found[0].locate()))


def _load(carried: Path) -> None:
    soname = carried.name.encode() + b"\0"
    data = carried.read_bytes().replace(soname, NAME.encode().ljust(len(soname), b"\0"))
    descriptor = os.memfd_create(NAME)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        raise OpenmpMissing(hint=f"Install libgomp1: {error}") from error
    finally:
        os.close(descriptor)
