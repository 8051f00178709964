"""How fields, entities, knobs, features and rules must fit together; expressions aside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import (
    SEGMENT_TYPES,
    Field,
    FieldType,
    HistoryFeature,
    Knobs,
    Rule,
)
from tiebreak.workflows.calendars import time_zones, unknown_time_zone
from tiebreak.workflows.draft import Draft
from tiebreak.workflows.releasing import check_release

RESERVED = ("as_of", "ticket_hash")
_NUMERIC = (FieldType.INTEGER, FieldType.NUMBER)
_LISTED = (FieldType.CATEGORY, FieldType.TAGS)


def check_structure(draft: Draft) -> None:
    """Add every mistake of structure to the draft."""
    _names(draft)
    workflow = draft.workflow
    for section, fields in (
        ("fields", workflow.fields),
        ("outcome_fields", workflow.outcome_fields),
    ):
        for field in fields:
            _field(draft, section, field)
    _sources(draft)
    _time(draft)
    _slices(draft)
    _knobs(draft)
    check_release(draft)
    for feature in workflow.features:
        if isinstance(feature, HistoryFeature):
            _history(draft, feature)
    for rule in draft.rules.rules:
        _rule(draft, rule)


def _names(draft: Draft) -> None:
    """Fields, outcome fields and features share one space of names."""
    owners = dict.fromkeys(RESERVED, "Tiebreak")
    for section in ("fields", "outcome_fields", "features"):
        node = draft.node(section)
        for name in getattr(node, "entries", {}):
            if name in owners:
                place = draft.key_place(section, name)
                message = f"`{name}` is taken by {owners[name]}"
                draft.mistakes.add(place, "name_taken", message, "choose another name")
                draft.broken.add(name)
            owners.setdefault(name, f"`{section}`")


def _field(draft: Draft, section: str, field: Field) -> None:
    def wrong(key: str, message: str, hint: str = "") -> None:
        place = draft.key_place(section, field.name, key)
        draft.mistakes.add(place, "field", message, hint)

    if field.values and field.type not in _LISTED:
        wrong("values", f"a {field.type} has no `values`", "make it a category or tags")
    if len(set(field.values)) != len(field.values):
        wrong("values", "a value is listed twice")
    for key in ("minimum", "maximum"):
        if getattr(field, key) is not None and field.type not in _NUMERIC:
            wrong(key, f"a {field.type} has no `{key}`")
    if field.minimum is not None and field.maximum is not None and field.minimum > field.maximum:
        wrong("maximum", "`maximum` is below `minimum`")
    if field.max_length < 1:
        wrong("max_length", "`max_length` must be at least 1")
    if field.type is not FieldType.TIMESTAMP:
        for key in ("timezone", "ambiguous", "nonexistent"):
            if draft.node(section, field.name, key) is not None:
                wrong(key, f"a {field.type} has no `{key}`")
    elif field.timezone is not None and field.timezone not in time_zones():
        mistake = unknown_time_zone("timezone", field.timezone)
        wrong("timezone", mistake.message, mistake.hint)
        draft.broken.add(field.name)


def _sources(draft: Draft) -> None:
    workflow = draft.workflow
    taken: dict[str, str] = {}
    for section, fields in (
        ("fields", workflow.fields),
        ("outcome_fields", workflow.outcome_fields),
    ):
        for field in fields:
            column = field.source or field.name
            if column in taken and taken[column] != field.name:
                place = draft.key_place(section, field.name, "source")
                message = f"column `{column}` is already read by `{taken[column]}`"
                draft.mistakes.add(place, "source_taken", message)
            taken.setdefault(column, field.name)


def _time(draft: Draft) -> None:
    workflow, name = draft.workflow, draft.workflow.time
    if draft.node("time") is None or name in draft.broken:
        return
    fields = {field.name: field for field in workflow.fields}
    place = draft.place("time")
    field = fields.get(name)
    if field is None:
        message = f"unknown field `{name}`"
        draft.mistakes.add(place, "unknown_field", message, did_you_mean(name, fields))
    elif field.type is not FieldType.TIMESTAMP or not field.required or field.after:
        message = f"`{name}` must be a required timestamp that is not after the fact"
        draft.mistakes.add(place, "time", message, "set `type: timestamp` and `required: true`")


def _slices(draft: Draft) -> None:
    """Slices are fields by which tickets may be told apart in a report."""
    fields = {field.name: field for field in draft.workflow.fields}
    for position, name in enumerate(draft.workflow.slices):
        if name in draft.broken:
            continue
        place, field = draft.place("slices", position), fields.get(name)
        if field is None:
            hint = did_you_mean(name, fields)
            draft.mistakes.add(place, "unknown_field", f"unknown field `{name}`", hint)
        elif field.pii or field.after or field.type not in SEGMENT_TYPES:
            why = "personal" if field.pii else "after the fact" if field.after else field.type.value
            hint = "take a category, a boolean, an integer or a text that is not personal"
            draft.mistakes.add(place, "slice", f"`{name}` is {why} and makes no slices", hint)


def _knobs(draft: Draft) -> None:
    for name, message in knob_mistakes(draft.workflow.knobs):
        draft.mistakes.add(draft.key_place("knobs", name), "knob", message)


def knob_mistakes(knobs: Knobs) -> Iterator[tuple[str, str]]:
    """The knobs that do not fit together, each with what is wrong."""
    for name, cuts in (("points", knobs.points), ("probability", knobs.probability)):
        if any(low >= high for low, high in pairwise((cuts.medium, cuts.high, cuts.critical))):
            yield name, f"`{name}` must rise from medium over high to critical"
    if not (knobs.probability.medium > 0 and knobs.probability.critical < 1):
        yield "probability", "`probability` must lie between 0 and 1, ends excluded"
    if knobs.uncertain_low > knobs.uncertain_high:
        yield "uncertain_low", "`uncertain_low` is above `uncertain_high`"


_NEEDS = {"sum": ("value",), "mean": ("value",), "last": ("value",), "rate": ("where",)}
_MAY = {
    "count": {"where", "window_days"},
    "sum": {"where", "window_days", "value", "scale"},
    "mean": {"where", "window_days", "value", "scale"},
    "rate": {"where", "window_days", "among"},
    "time_since": {"where", "window_days"},
    "last": {"where", "value", "scale"},
    "open": {"where"},
}
_OPTIONAL = ("where", "among", "value", "scale", "window_days")


def _history(draft: Draft, feature: HistoryFeature) -> None:
    def wrong(key: str, message: str, hint: str = "") -> None:
        place = draft.key_place("features", feature.name, key)
        draft.mistakes.add(place, "history", message, hint)
        draft.broken.add(feature.name)

    entities = {entity.name for entity in draft.workflow.entities}
    if feature.entity not in entities:
        draft.broken.add(feature.name)
        if feature.entity not in draft.broken:
            place = draft.place("features", feature.name, "entity")
            hint = did_you_mean(feature.entity, sorted(entities))
            message = f"unknown entity `{feature.entity}`"
            draft.mistakes.add(place, "unknown_entity", message, hint)
    for key in _NEEDS.get(feature.aggregate, ()):
        if getattr(feature, key) is None:
            wrong("aggregate", f"`{feature.aggregate}` needs `{key}`")
    for key in _OPTIONAL:
        is_given = draft.node("features", feature.name, key) is not None
        if is_given and key not in _MAY[feature.aggregate]:
            wrong(key, f"`{feature.aggregate}` takes no `{key}`")
    if feature.aggregate == "open" and draft.node("features", feature.name, "on") is not None:
        wrong("on", "`open` takes no `on`", "it is arrived minus closed events")


def _rule(draft: Draft, rule: Rule) -> None:
    def wrong(key: str, message: str, hint: str = "") -> None:
        draft.mistakes.add(draft.key_place("rules", rule.id, key), "rule", message, hint)

    is_bound = rule.effect in ("floor", "ceiling")
    if is_bound and rule.band is None:
        wrong("effect", f"a {rule.effect} needs `band`")
    if not is_bound and rule.band is not None:
        wrong("band", f"`{rule.effect}` takes no `band`")
    if rule.effect == "points" and rule.points == 0:
        wrong("effect", "`points` needs `points` other than 0")
    if rule.effect != "points" and rule.points != 0:
        wrong("points", f"`{rule.effect}` takes no `points`")
    if rule.hard and not is_bound:
        wrong("hard", f"`{rule.effect}` cannot be hard", "only a floor or a ceiling can")
    if not rule.message.strip():
        wrong("message", "`message` must say why")
    if rule.valid_from and rule.valid_to and rule.valid_from >= rule.valid_to:
        wrong("valid_to", "`valid_to` is not after `valid_from`")
