"""Answers as JSON with arrays."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response. A float32 of an array has the fewest digits that give it back."""
    return Response(to_json(value), status, headers, "application/json")


def to_json(value: Any) -> bytes:
    """JSON in UTF-8. Raises TypeError for a value without a form in JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
