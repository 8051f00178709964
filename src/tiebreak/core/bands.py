"""Risk bands, ordered."""

from __future__ import annotations

from enum import IntEnum


class Band(IntEnum):
    """A band of risk; a larger value is a higher risk."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """The band as it is written in configuration, tables and answers: `low` … `critical`."""
        return self.name.lower()

    @classmethod
    def of(cls, label: str) -> Band:
        """The band with this label; KeyError when there is none."""
        return cls[label.upper()]
