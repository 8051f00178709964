"""Times in addresses and bodies."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator, TypeAdapter

_LAX = TypeAdapter[object](AwareDatetime)  # bodies are read strictly, where a text is no time
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)


def _written(value: object) -> object:
    """Only a time that is written out: pydantic would take a number for seconds since 1970."""
    if not isinstance(value, str) or not _TIME.match(value):
        raise ValueError("must be a time with its zone, such as 2026-03-02T14:30:00Z")
    return _LAX.validate_python(value, strict=False)


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]
