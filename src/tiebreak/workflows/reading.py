"""From trees to models: types, ranges and keys are checked, each mistake at its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast, get_args

import orjson
from pydantic import BaseModel, ValidationError

from tiebreak.core.suggestions import did_you_mean
from tiebreak.workflows.source import (
    Mapping,
    Mistake,
    Node,
    Place,
    Scalar,
    Sequence,
    descend,
    plain,
)

M = TypeVar("M", bound=BaseModel)

_KINDS = {
    "string_type": "must be a text",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "missing": "is missing",
    "too_short": "must not be empty",
}


class Mistakes:
    """The mistakes found so far, and places to put more."""

    def __init__(self) -> None:
        self.found: list[Mistake] = []

    def add(self, place: Place, code: str, message: str, hint: str = "") -> None:
        """Add one mistake."""
        self.found.append(Mistake(place, code, message, hint))

    def extend(self, mistakes: Iterable[Mistake]) -> None:
        """Add mistakes found elsewhere."""
        self.found.extend(mistakes)


def entries(node: Node | None, what: str, mistakes: Mistakes) -> dict[str, Node]:
    """The entries of a mapping; a missing or empty section has none."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return {}
    if isinstance(node, Mapping):
        return node.entries
    mistakes.add(node.place, "wrong_type", f"`{what}` must be a mapping of names")
    return {}


def model_of(
    kind: type[M], node: Node, mistakes: Mistakes, *, key: tuple[str, str, Place] | None = None
) -> M | None:
    """The model that a mapping describes, or None and its mistakes.

    `key` is (attribute, name, place) where the mapping's own key gives an attribute.
    """
    if not isinstance(node, Mapping):
        mistakes.add(node.place, "wrong_type", "must be a mapping of keys")
        return None
    data = cast("dict[str, Any]", plain(node))
    if key is not None:
        if key[0] in data:
            message = f"`{key[0]}` is not a key here: the key above is the {key[0]}"
            mistakes.add(node.keys[key[0]], "unknown_key", message, "remove it")
        data[key[0]] = key[1]
    try:
        return kind.model_validate_json(orjson.dumps(data), strict=True)
    except ValidationError as error:
        details = cast("list[dict[str, Any]]", error.errors(include_url=False))
        found = [_mistake(kind, node, detail, key) for detail in details]
        meant = {f.hint for f in found if f.code == "unknown_key"}
        mistakes.extend(
            mistake
            for mistake, detail in zip(found, details, strict=True)
            if mistake.code != "missing" or f"did you mean `{detail['loc'][-1]}`?" not in meant
        )
        return None


def unknown_keys(node: Mapping, known: Iterable[str], mistakes: Mistakes, hint: str = "") -> None:
    """Report the keys of a mapping that nobody reads."""
    names = list(known)
    for name in node.entries:
        if name not in names:
            mistakes.add(
                node.keys[name],
                "unknown_key",
                f"unknown key `{name}`",
                hint or did_you_mean(name, names),
            )


def _mistake(
    kind: type[BaseModel],
    node: Mapping,
    detail: dict[str, Any],
    key: tuple[str, str, Place] | None,
) -> Mistake:
    path: tuple[str | int, ...] = detail["loc"]
    place = descend(node, path)
    what = str(detail["type"])
    if key is not None and (path == (key[0],) or what == "missing"):
        place = key[2]
    if what == "extra_forbidden":
        return _unknown_key(kind, node, path)
    if what in ("literal_error", "enum"):
        given, allowed = str(detail["input"]), _quoted(str(detail["ctx"]["expected"]))
        message = f"`{given}` is not one of {', '.join(allowed)}"
        return Mistake(place, "not_allowed_value", message, did_you_mean(given, allowed))
    if what == "string_pattern_mismatch":
        hint = "lower case: a letter, then letters, digits and `_`, at most 63 characters"
        return Mistake(place, "not_a_name", f"`{detail['input']}` is not a name", hint)
    name = ".".join(str(step) for step in path if isinstance(step, str))
    message = _KINDS.get(what) or str(detail["msg"]).replace("Input should", "should", 1)
    return Mistake(place, "missing" if what == "missing" else what, f"`{name}` {message}")


def _unknown_key(kind: type[BaseModel], node: Mapping, path: tuple[str | int, ...]) -> Mistake:
    owner: Node = node
    model = kind
    for step in path[:-1]:
        if isinstance(owner, Mapping):
            owner = owner.entries[str(step)]
            model = _model_in(model.model_fields[str(step)].annotation) or model
        elif isinstance(owner, Sequence):
            owner = owner.items[int(step)]
    name = str(path[-1])
    place = owner.keys[name] if isinstance(owner, Mapping) else owner.place
    hint = did_you_mean(name, model.model_fields)
    return Mistake(place, "unknown_key", f"unknown key `{name}`", hint)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type, which may be optional or a tuple of models."""
    choices = get_args(annotation) or (annotation,)
    return next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _quoted(expected: str) -> list[str]:
    """The values in pydantic's "'a', 'b' or 'c'"."""
    return [part for i, part in enumerate(expected.split("'")) if i % 2]
