"""The engine fingerprint: what a decision's bits may depend on besides its input and policy."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

ENGINE = (
    "numba",
    "llvmlite",
    "numpy",
    "onnxruntime",
    "orjson",
    "polars",
    "polars-runtime-32",
    "pydantic-core",
)
_CORE = Path(__file__).parent / "core"
_SIMD = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "neon", "asimd", "sve", "popcnt")


@dataclass(frozen=True)
class Fingerprint:
    """A hash, 16 hexadecimal digits, and the facts it stands for."""

    hash: str
    parts: Mapping[str, str]

    def differences(self, other: Mapping[str, str]) -> list[str]:
        """The facts that differ, by name, with both values."""
        return [
            f"{name}: {other.get(name, 'none')} → {self.parts.get(name, 'none')}"
            for name in sorted(self.parts.keys() | other.keys())
            if self.parts.get(name) != other.get(name)
        ]


@cache
def engine_fingerprint() -> Fingerprint:
    """The fingerprint of this process: Python, engine libraries, core's source, CPU features."""
    parts = {
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "core": _source_hash(_CORE),
        "cpu": _cpu_features(),
        **{name: version(name) for name in ENGINE},
    }
    text = "\n".join(f"{name}={parts[name]}" for name in sorted(parts))
    return Fingerprint(hashlib.sha256(text.encode()).hexdigest()[:16], parts)


def _source_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _cpu_features() -> str:
    """The CPU's vector features: libraries choose their kernels by them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    chosen = sorted(flag for flag in flags.partition(":")[2].split() if flag.startswith(_SIMD))
    return " ".join([platform.machine(), *chosen])
