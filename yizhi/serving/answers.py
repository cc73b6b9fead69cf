"""What is sent: JSON with arrays in it."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON. A float32 of an array has the fewest digits that give it back."""
    return Response(to_json(value), status, headers, "application/json")


def to_json(value: Any) -> bytes:
    """UTF-8. Raises TypeError for what JSON has no form for."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
