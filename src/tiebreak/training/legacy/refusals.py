"""Why a legacy model is not imported."""

from __future__ import annotations

from tiebreak.errors import IntegrityFailure, InvalidInput


class LegacyUnsigned(IntegrityFailure):
    """The file has no signature, so it is not opened."""

    code = "legacy_unsigned"


class LegacyAltered(IntegrityFailure):
    """The file is not the one that was signed with this key, so it is not opened."""

    code = "legacy_altered"


class LegacyRefused(InvalidInput):
    """The model cannot be turned into a bundle."""

    code = "legacy_refused"


class LegacyNotEqual(IntegrityFailure):
    """The converted model does not give what the original gives."""

    code = "legacy_not_equal"


class Refused(Exception):
    """Why the model in the cage cannot be described; the text goes on after `it cannot: `."""
