"""One log line for each request, and for other events: as text, or as JSON."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from starlette.requests import Request
from starlette.responses import Response

from yizhi.errors import printable
from yizhi.serving.refusals import Refused

if TYPE_CHECKING:
    from yizhi.serving.endpoint import Exchange


class Log:
    """Writes to its stream, if it has one. Keys, texts and answers are never written."""

    def __init__(self, stream: TextIO | None = None, as_json: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json

    def request(
        self, request: Request, exchange: "Exchange", response: Response, seconds: float, refused: Refused | None
    ) -> None:
        """Log a request that was answered or refused."""
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
        self._write(said)

    def say(self, message: str) -> None:
        """Log an event that is not a request."""
        if self._stream:
            line = to_line({"level": "info", "message": message}) if self._as_json else f"yizhi: {message}"
            print(line, file=self._stream, flush=True)

    def _write(self, said: dict[str, Any]) -> None:
        if self._stream is None:
            return
        if self._as_json:
            line = to_line({"level": "info", **said})
        else:
            line = " ".join(
                [_now(), *(f"{key}={_quote(value)}" for key, value in said.items() if value not in (None, ""))]
            )
        print(line, file=self._stream, flush=True)


class JsonFormatter(logging.Formatter):
    """uvicorn's log records, such as a failure with its stack, as lines of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """As logging's."""
        stack = {"stack": self.formatException(record.exc_info)} if record.exc_info else {}
        return to_line({"level": record.levelname.lower(), "message": record.getMessage(), **stack})


def log_config(as_json: bool) -> dict[str, Any]:
    """uvicorn's own logs to standard error, for people or as JSON: the argument of `logging.config.dictConfig`."""
    form = {"()": JsonFormatter} if as_json else {"format": "%(asctime)s %(levelname)s %(message)s"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"form": form},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "form"}},
        "loggers": {"uvicorn": {"handlers": ["stderr"], "propagate": False}},
    }


def to_line(said: dict[str, Any]) -> str:
    """JSON with the time."""
    return json.dumps({"time": _now(), **said}, ensure_ascii=False)


def _quote(value: object) -> str:
    """The value, quoted if it could be read as two."""
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json.dumps(text, ensure_ascii=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _trace_id(request: Request) -> str | None:
    """Of the W3C trace context, https://www.w3.org/TR/trace-context/#traceparent-header."""
    parts = request.headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 and parts[1].isalnum() else None
