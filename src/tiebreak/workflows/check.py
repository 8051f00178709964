"""Checking a workflow's folder: every mistake at once, and the examples decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiebreak.core.workflow import RuleSet, Workflow
from tiebreak.errors import InvalidInput
from tiebreak.workflows.examples import run_examples
from tiebreak.workflows.folder import read_draft
from tiebreak.workflows.meaning import check_meaning
from tiebreak.workflows.source import Mistake
from tiebreak.workflows.structure import check_structure


class MistakenWorkflow(InvalidInput):
    """The workflow has mistakes."""

    code = "mistaken_workflow"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found. `workflow` and `rules` may be used only when there are no mistakes."""

    workflow: Workflow
    rules: RuleSet
    examples: int
    mistakes: tuple[Mistake, ...]
    unfired: tuple[str, ...]  # rules that no example fires

    def sound(self) -> tuple[Workflow, RuleSet]:
        """The workflow and its rules. Raises `MistakenWorkflow` when there are mistakes."""
        if self.mistakes:
            count = len(self.mistakes)
            raise MistakenWorkflow(
                f"The workflow has {count} mistake{'' if count == 1 else 's'}.",
                hint="Correct them; `tiebreak workflow check` shows them again.",
                problems=tuple(mistake.as_problem() for mistake in self.mistakes),
            )
        return self.workflow, self.rules


def check_folder(folder: Path) -> Checked:
    """Check a workflow's folder. Mistakes are part of the result, in the order of the files.

    Examples run only when nothing else is mistaken.
    """
    draft = read_draft(folder)
    check_structure(draft)
    check_meaning(draft)
    unfired: tuple[str, ...] = ()
    if not draft.mistakes.found:
        unfired = run_examples(draft)
    return Checked(
        workflow=draft.workflow,
        rules=draft.rules,
        examples=len(draft.examples),
        mistakes=tuple(sorted(set(draft.mistakes.found))),
        unfired=unfired,
    )
