"""JSON Schemas of the release's own files, and a reader of the keywords that they use.

The schemas in `schemas/` are both documentation and check. They use only the few keywords below, so that a deploy
machine needs no jsonschema. Tests compare this reader's answers with jsonschema's.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from yizhi.errors import show

MOST_FAULTS = 20

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTES = {"$schema", "$id", "$defs", "title", "description"}
_KEYWORDS = {
    *("$ref", "type", "const", "enum", "pattern", "minimum"),
    *("required", "properties", "propertyNames", "additionalProperties", "unevaluatedProperties", "items"),
}


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema `NAME.json` of the package, such as `manifest.v1`."""
    schema: dict[str, Any] = json.loads(
        (Path(__file__).parent / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    )
    return schema


def find_violations(value: object, name: str) -> list[str]:
    """Violations of a schema by a value, at most MOST_FAULTS lines. Empty if the value is valid."""
    schema = load_schema(name)
    faults: list[str] = []
    for fault in _check(value, schema, name, ""):
        if len(faults) == MOST_FAULTS:
            return [*faults, "and more"]
        faults.append(fault)
    return faults


def _check(value: object, schema: Mapping[str, Any], file: str, where: str) -> Iterator[str]:
    """file: the name of the schema that this is part of."""
    unknown = schema.keys() - _KEYWORDS - _NOTES
    if unknown:
        raise NotImplementedError(f"schema keywords {sorted(unknown)} at {where or 'the top'}")
    if "$ref" in schema:
        yield from _check(value, *_follow(schema["$ref"], file), where)
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is_a(value, name) for name in names):
            yield f"{where or 'the file'}: expected {' or '.join(names)}; found {show(value)}"
            return
    yield from _check_scalar(value, schema, where)
    if isinstance(value, dict):
        yield from _check_object(value, schema, file, where)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _check(item, schema["items"], file, f"{where}[{index}]")


def _follow(reference: str, file: str) -> tuple[Mapping[str, Any], str]:
    """The schema that a reference points to, and its file: `#/$defs/NAME` of this schema or another.

    Another schema is referred to by its $id: urn:yizhi:artifact:1 is `artifact.v1`.
    """
    urn, _, name = reference.partition("#/$defs/")
    if urn:
        file = ".v".join(urn.split(":")[2:])
    return load_schema(file)["$defs"][name], file


def _properties(schema: Mapping[str, Any], file: str) -> set[str]:
    """The property names of a schema, including those of the schemas that it refers to."""
    names = set(schema.get("properties", ()))
    return names | _properties(*_follow(schema["$ref"], file)) if "$ref" in schema else names


def _check_scalar(value: object, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if "const" in schema and not _equal(value, schema["const"]):
        yield f"{where}: expected {schema['const']!r}; found {show(value)}"
    if "enum" in schema and not any(_equal(value, choice) for choice in schema["enum"]):
        yield f"{where}: expected one of {', '.join(map(str, schema['enum']))}; found {show(value)}"
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        yield f"{where}: expected the form {schema['pattern']}; found {show(value)}"
    if "minimum" in schema and _is_a(value, "number") and value < schema["minimum"]:
        yield f"{where}: expected at least {schema['minimum']}; found {show(value)}"


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], file: str, where: str) -> Iterator[str]:
    prefix = f"{where}: " if where else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{prefix}{name}: missing"
    properties = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    known = value.keys() if schema.get("unevaluatedProperties", True) else _properties(schema, file)
    for name, item in value.items():
        if "propertyNames" in schema:
            yield from _check(name, schema["propertyNames"], file, f"{prefix}a name")
        if name in properties:
            yield from _check(item, properties[name], file, f"{prefix}{name}")
        elif rest is False or name not in known:
            yield f"{prefix}{show(name)}: not known here"
        elif isinstance(rest, dict):
            yield from _check(item, rest, file, f"{prefix}{name}")


def _is_a(value: object, name: str) -> bool:
    if name == "integer" and isinstance(value, float):
        return value.is_integer()  # JSON Schema calls 1.0 an integer
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _equal(value: object, other: object) -> bool:
    """Equal as JSON: 1 is 1.0, but True is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other
