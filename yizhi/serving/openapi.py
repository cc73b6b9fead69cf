"""The OpenAPI document of the endpoints, made from the types of their bodies and answers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from yizhi import __version__
from yizhi.serving.endpoint import Endpoint

_REFERENCE = "#/components/schemas/{model}"


def describe(endpoints: Sequence[Endpoint], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """An OpenAPI 3.1 document. names: the possible values of each path parameter."""
    inputs: list[tuple[Any, JsonSchemaMode, TypeAdapter[Any]]] = []
    for endpoint in endpoints:
        inputs += [(endpoint.path, "validation", TypeAdapter(endpoint.body))] if endpoint.body else []
        inputs += [(endpoint.path, "serialization", TypeAdapter(endpoint.gives))] if endpoint.gives else []
    protocols = {endpoint.protocol.name: endpoint.protocol for endpoint in endpoints}
    inputs += [(name, "serialization", TypeAdapter(protocol.error)) for name, protocol in protocols.items()]
    schemas, shared = TypeAdapter.json_schemas(inputs, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        body = schemas[endpoint.path, "validation"] if endpoint.body else None
        gives = schemas[endpoint.path, "serialization"] if endpoint.gives else None
        refused = schemas[endpoint.protocol.name, "serialization"]
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = {
            "summary": endpoint.summary,
            "operationId": re.sub(r"\W+", "-", f"{endpoint.method}-{endpoint.protocol.name}{endpoint.path}").strip("-"),
            "tags": [endpoint.protocol.name],
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": list(names[name])}}
                for name in re.findall(r"{(\w+)}", endpoint.path)
            ],
            **({"requestBody": _content(body) | {"required": True}} if body else {}),
            "responses": {
                "200": {"description": "The answer", **(_content(gives, endpoint.raw) if gives else {})},
                "default": {"description": "Refused", **_content(refused)},
            },
            **({"security": []} if endpoint.open else {}),
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Yizhi", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": shared.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _content(schema: Any, binary: bool = False) -> dict[str, Any]:
    tensors: dict[str, Any] = {"application/octet-stream": {}} if binary else {}
    return {"content": {"application/json": {"schema": schema}, **tensors}}
