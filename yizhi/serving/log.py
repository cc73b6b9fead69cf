"""One line for each request: for people, or as JSON."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from starlette.requests import Request
from starlette.responses import Response

from yizhi.errors import printable
from yizhi.serving.refusals import Refused

if TYPE_CHECKING:
    from yizhi.serving.endpoint import Exchange


class AccessLog:
    """Writes nothing unless it has a stream. Keys, texts and answers are never written."""

    def __init__(self, stream: TextIO | None = None, as_json: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json

    def request(
        self, request: Request, exchange: "Exchange", response: Response, seconds: float, refused: Refused | None
    ) -> None:
        """A request that was answered, or refused."""
        client = request.client.host if request.client else ""
        said: dict[str, Any] = {
            "client": client,
            "method": request.method,
            "path": printable(request.url.path),
            "status": response.status_code,
            "milliseconds": round(seconds * 1000, 3),
            "texts": exchange.texts,
            "tokens": exchange.tokens,
            "model": exchange.model.name if exchange.model else None,
            "refused": refused.kind.name if refused else None,
            "request_id": exchange.id,
            "trace_id": _trace_id(request),
        }
        self._write("info", said)

    def _write(self, level: str, said: dict[str, Any]) -> None:
        if self._stream is None:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._as_json:
            line = json.dumps({"time": time, "level": level, **said}, ensure_ascii=False)
        else:
            line = " ".join([time, *(f"{key}={value}" for key, value in said.items() if value not in (None, ""))])
        print(line, file=self._stream, flush=True)


def _trace_id(request: Request) -> str | None:
    """Of the W3C trace context, https://www.w3.org/TR/trace-context/#traceparent-header."""
    parts = request.headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 and parts[1].isalnum() else None
