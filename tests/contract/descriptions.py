"""The API's description as what real answers are held to."""

from __future__ import annotations

from typing import Any

import httpx
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

Json = dict[str, Any]


def operations(description: Json) -> dict[str, tuple[str, str, Json]]:
    return {
        operation["operationId"]: (method, path, operation)
        for path, item in description["paths"].items()
        for method, operation in item.items()
    }


class Checker:
    """Holds answers to the schemas of a description."""

    def __init__(self, description: Json) -> None:
        self._operations = operations(description)
        resource = Resource(contents=description, specification=DRAFT202012)
        self._registry = Registry().with_resource("urn:api", resource)

    def check(self, name: str, response: httpx.Response) -> Any:
        """The answer's content; AssertionError when the description does not allow it."""
        method, path, operation = self._operations[name]
        answers = operation["responses"]
        assert str(response.status_code) in answers, (name, response.status_code, response.text)
        kind = response.headers["content-type"].partition(";")[0]
        content = answers[str(response.status_code)]["content"]
        assert kind in content, (name, kind)
        escaped = path.replace("~", "~0").replace("/", "~1")
        place = kind.replace("/", "~1")
        reference = (
            f"urn:api#/paths/{escaped}/{method}/responses/{response.status_code}"
            f"/content/{place}/schema"
        )
        self.fits(reference, response.json())
        return response.json()

    def fits(self, reference: str, instance: object) -> None:
        """AssertionError with every difference between the instance and the schema."""
        validator = Draft202012Validator(
            {"$ref": reference}, registry=self._registry, format_checker=FormatChecker()
        )
        errors = [
            f"{error.json_path}: {error.message}" for error in validator.iter_errors(instance)
        ]
        assert not errors, errors
