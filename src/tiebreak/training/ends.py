"""How training runs end: one word each for the record, one error each for who waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tiebreak.errors import Conflict, IntegrityFailure, TiebreakError, Unavailable
from tiebreak.supervised.failures import lacks_memory
from tiebreak.supervised.process import ProcessEnded

Result = Literal[
    "bundled",  # a signed bundle came of it
    "failed",  # training refused: too little data, nothing learnt, …
    "cancelled",  # somebody asked for it
    "timed_out",  # it took more time than a run may
    "out_of_memory",  # it took more memory than a run may
    "crashed",  # its process ended, or met an error of ours
    "abandoned",  # who supervised it was gone; found later
]


class RunCancelled(Conflict):
    """The training run was cancelled."""

    code = "training_cancelled"


class RunTimedOut(Unavailable):
    """The training run took more time than a run may."""

    code = "training_timed_out"


class RunOutOfMemory(Unavailable):
    """The training run needed more memory than a run may take."""

    code = "training_out_of_memory"


class RunCrashed(Unavailable):
    """The process of the training run ended by itself."""

    code = "training_crashed"


class RunAbandoned(Unavailable):
    """The process that supervised the training run was gone."""

    code = "training_abandoned"


class RunUnfit(IntegrityFailure):
    """What the training run handed over is not what was asked for."""

    code = "training_result_unfit"


class TurnLost(Conflict):
    """The training run lost its turn while it ran, so nothing of it is kept."""

    code = "training_turn_lost"


_RESULTS: Mapping[type[TiebreakError], Result] = {
    RunCancelled: "cancelled",
    RunTimedOut: "timed_out",
    RunOutOfMemory: "out_of_memory",
    RunCrashed: "crashed",
    RunUnfit: "crashed",
    RunAbandoned: "abandoned",
}


def result_of(error: TiebreakError) -> Result:
    """The word for a run that ended by this error."""
    return _RESULTS.get(type(error), "failed")


def error_of(ended: ProcessEnded) -> TiebreakError:
    """Why a process that ended before its work was done has ended."""
    if ended.exit_code == -24:  # SIGXCPU
        return RunTimedOut(hint="Raise TIEBREAK_TRAINING__CPU_SECONDS, or train fewer trees.")
    if lacks_memory(ended.last_words):
        return out_of_memory()
    hint = ""
    if ended.exit_code == -9:
        hint = "Somebody killed it, or the system was short of memory: see the system's log."
    return RunCrashed(ended.message, hint=hint)


def out_of_memory() -> RunOutOfMemory:
    """The error of a run that got no more memory."""
    return RunOutOfMemory(hint="Raise TIEBREAK_TRAINING__MEMORY_BYTES, or train on fewer tickets.")
