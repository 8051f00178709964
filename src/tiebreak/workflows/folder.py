"""Reading a workflow's folder: each section of each file becomes models, or mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tiebreak.core.release_plan import ReleasePlan
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.unfit import Unfit
from tiebreak.core.workflow import (
    Calendar,
    Entity,
    EventSource,
    FamilyChoice,
    Field,
    HistoryFeature,
    Knobs,
    Label,
    Name,
    Retention,
    RowFeature,
    Rule,
    RuleSet,
    Workflow,
)
from tiebreak.workflows.calendars import CalendarSource, expanded, mistakes_of
from tiebreak.workflows.draft import Draft, Example, read_moment
from tiebreak.workflows.reading import M, Mistakes, entries, model_of, unknown_keys
from tiebreak.workflows.source import (
    Mapping,
    Node,
    Place,
    Scalar,
    Sequence,
    descend,
    plain,
    read_document,
)

FILES: dict[str, tuple[str, ...]] = {
    "workflow.yaml": (
        "name", "title", "description", "ticket_id", "time", "calendar", "fields",
        "outcome_fields", "events", "entities", "label", "family", "slices", "knobs",
        "retention", "release",
    ),
    "features.yaml": ("features",),
    "rules.yaml": ("rules",),
    "examples.yaml": ("examples",),
}  # fmt: skip


_COMPARED = {"uncertain_low", "uncertain_high"}  # with each other


class _Head(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    title: str
    time: Name
    description: str = ""
    ticket_id: str = "ticket_id"
    family: FamilyChoice = "xgboost"
    slices: tuple[Name, ...] = ()


class _Top(_Head):
    """All keys of `workflow.yaml`, so that a mistaken key is compared with every one of them."""

    calendar: object = None
    fields: object = None
    outcome_fields: object = None
    events: object = None
    entities: object = None
    label: object = None
    knobs: object = None
    retention: object = None
    release: object = None


def read_draft(folder: Path) -> Draft:
    """Read a workflow's folder; mistakes of form are in the draft, what they spoil is left out."""
    mistakes = Mistakes()
    sections = _sections(folder, mistakes)
    if "workflow.yaml" in {place.file for place in sections.keys.values()}:
        return _Reading(sections, mistakes).draft()
    empty = _Reading(Mapping({}, {}, sections.place), Mistakes()).draft()
    return replace(empty, mistakes=mistakes)


def _sections(folder: Path, mistakes: Mistakes) -> Mapping:
    merged = Mapping({}, {}, Place("workflow.yaml"))
    if not (folder / "workflow.yaml").is_file():
        message = "there is no such file" if folder.is_dir() else f"{folder} is not a folder"
        mistakes.add(merged.place, "missing", message, "a workflow is a folder with this file")
        return merged
    for path in sorted(folder.glob("*.y*ml")):
        if path.name not in FILES:
            hint = did_you_mean(path.name, FILES)
            mistakes.add(Place(path.name), "unknown_file", "is no file of a workflow", hint)
    owners = {key: name for name, keys in FILES.items() for key in keys}
    for name, keys in FILES.items():
        path = folder / name
        if not path.is_file():
            continue
        document = read_document(path, name)
        mistakes.extend(document.mistakes)
        if document.root is None:
            continue
        for key in document.root.entries:
            elsewhere = owners.get(key)
            if elsewhere is not None and elsewhere != name:
                place, hint = document.root.keys[key], f"move it to {elsewhere}"
                mistakes.add(place, "misplaced_key", f"`{key}` does not belong here", hint)
        mine = {k: v for k, v in document.root if k in keys or k not in owners}
        if name != "workflow.yaml":
            unknown_keys(Mapping(mine, document.root.keys, document.root.place), keys, mistakes)
        merged.entries.update(mine)
        merged.keys.update(document.root.keys)
    return merged


class _Reading:
    """Reads each section into models."""

    def __init__(self, sections: Mapping, mistakes: Mistakes) -> None:
        self._sections = sections
        self._mistakes = mistakes
        self._broken: set[str] = set()

    def draft(self) -> Draft:
        named = self._head()
        calendar = self._calendar()
        label = self._one("label", Label)
        workflow = Workflow(
            **named.model_dump(),
            calendar=calendar,
            fields=tuple(self._fields("fields")),
            outcome_fields=tuple(self._fields("outcome_fields")),
            events=tuple(self._listed("events", EventSource)),
            entities=tuple(self._entities()),
            features=tuple(self._features()),
            knobs=self._knobs(),
            label=label,
            retention=self._one("retention", Retention) or Retention(),
            release=self._one("release", ReleasePlan) or ReleasePlan(),
        )
        rules = RuleSet(rules=tuple(self._rules(calendar)))
        examples = self._examples()
        return Draft(self._sections, workflow, rules, examples, self._mistakes, self._broken)

    def _head(self) -> _Head:
        elsewhere = {key for name in FILES if name != "workflow.yaml" for key in FILES[name]}
        own = {k: v for k, v in self._sections if k not in elsewhere}
        node = Mapping(own, self._sections.keys, self._sections.place)
        top = model_of(_Top, node, self._mistakes)
        if top is not None:
            return _Head(**top.model_dump(include=set(_Head.model_fields)))
        try:
            return _Head(name="unnamed", title="", time=plain(own["time"]))  # pyright: ignore[reportArgumentType]
        except (KeyError, ValidationError):
            self._broken.add("unnamed")
            return _Head(name="unnamed", title="", time="unnamed")

    def _section(self, name: str) -> dict[str, Node]:
        return entries(self._sections.entries.get(name), name, self._mistakes)

    def _one(self, name: str, kind: type[M]) -> M | None:
        node = self._sections.entries.get(name)
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return None
        return model_of(kind, node, self._mistakes)

    def _knobs(self) -> Knobs:
        """The knobs; a mistaken one does not keep the others from being compared."""
        node, knobs = self._sections.entries.get("knobs"), self._one("knobs", Knobs)
        if knobs is not None or not isinstance(node, Mapping):
            return knobs or Knobs()

        def some(names: Iterable[str]) -> Knobs | None:
            kept = {name: node.entries[name] for name in names}
            return model_of(Knobs, Mapping(kept, node.keys, node.place), Mistakes())

        mistaken = {name for name in node.entries if some([name]) is None}
        if not mistaken.isdisjoint(_COMPARED):
            mistaken |= _COMPARED
        return some(node.entries.keys() - mistaken) or Knobs()

    def _keyed(self, section: str, name: str, node: Node, kind: type[M], key: str) -> M | None:
        owner = self._sections.entries[section]
        assert isinstance(owner, Mapping)
        model = model_of(kind, node, self._mistakes, key=(key, name, owner.keys[name]))
        if model is None:
            self._broken.add(name)
        return model

    def _items(self, name: str) -> list[tuple[int, Node]]:
        node = self._sections.entries.get(name)
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return []
        if isinstance(node, Sequence):
            return list(enumerate(node.items))
        self._mistakes.add(node.place, "wrong_type", f"`{name}` must be a list")
        return []

    def _listed(self, name: str, kind: type[M]) -> list[M]:
        read = (model_of(kind, node, self._mistakes) for _, node in self._items(name))
        return [model for model in read if model is not None]

    def _calendar(self) -> Calendar:
        node = self._sections.entries.get("calendar")
        source = self._one("calendar", CalendarSource)
        if source is None or node is None:
            return Calendar()
        wrong = mistakes_of(source)
        for mistake in wrong:
            place = descend(node, (mistake.key,))
            self._mistakes.add(place, "calendar", mistake.message, mistake.hint)
        return Calendar() if wrong else expanded(source)

    def _fields(self, section: str) -> list[Field]:
        read = (
            self._keyed(section, name, node, Field, "name")
            for name, node in self._section(section).items()
        )
        return [model for model in read if model is not None]

    def _entities(self) -> list[Entity]:
        found: list[Entity] = []
        for name, node in self._section("entities").items():
            keys = Sequence((node,), node.place) if isinstance(node, Scalar) else node
            shaped = Mapping({"key": keys}, {"key": node.place}, node.place)
            entity = self._keyed("entities", name, shaped, Entity, "name")
            if entity is not None:
                found.append(entity)
        return found

    def _features(self) -> list[RowFeature | HistoryFeature]:
        found: list[RowFeature | HistoryFeature] = []
        for name, node in self._section("features").items():
            shaped = node
            if isinstance(node, Scalar):
                shaped = Mapping({"sql": node}, {"sql": node.place}, node.place)
            is_row = isinstance(shaped, Mapping) and "sql" in shaped.entries
            kind = RowFeature if is_row else HistoryFeature
            feature = self._keyed("features", name, shaped, kind, "name")
            if feature is not None:
                found.append(feature)
        return found

    def _rules(self, calendar: Calendar) -> list[Rule]:
        found: list[Rule] = []
        for name, node in self._section("rules").items():
            shaped = self._in_zone(node, calendar) if isinstance(node, Mapping) else node
            rule = self._keyed("rules", name, shaped, Rule, "id")
            if rule is not None:
                found.append(rule)
        return found

    def _in_zone(self, node: Mapping, calendar: Calendar) -> Mapping:
        changed = dict(node.entries)
        for key in ("valid_from", "valid_to"):
            child = changed.get(key)
            if not isinstance(child, Scalar) or not isinstance(child.value, str):
                continue
            try:
                moment = read_moment(child.value, calendar)
                changed[key] = Scalar(moment.isoformat(), child.place)
            except Unfit as unfit:
                self._mistakes.add(child.place, unfit.code, f"`{key}` {unfit.message}", unfit.hint)
                del changed[key]
        return Mapping(changed, node.keys, node.place)

    def _examples(self) -> list[tuple[int, Example]]:
        found: list[tuple[int, Example]] = []
        for index, node in self._items("examples"):
            example = model_of(Example, node, self._mistakes)
            if example is not None:
                found.append((index, example))
        return found
