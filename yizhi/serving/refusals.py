"""Reasons to refuse a request. Each protocol formats them in its own way."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of refusal: its HTTP status, its name in metrics and logs, and when a client may try again."""

    status: int
    name: str
    retry_after: int | None = None  # seconds


ENCODED = Kind(415, "encoded")  # a compressed body
INVALID = Kind(422, "invalid")
EMPTY = Kind(400, "empty")  # no texts
MALFORMED = Kind(400, "malformed")  # what is no JSON, or no tensor
UNAUTHORIZED = Kind(401, "unauthorized")
NO_MODEL = Kind(404, "no-model")
NO_ROUTE = Kind(404, "no-route")
NO_METHOD = Kind(405, "no-method")
TOO_LONG = Kind(413, "too-long")  # a text, for the model
TOO_LARGE = Kind(413, "too-large")
OVERLOADED = Kind(429, "overloaded", retry_after=1)
GONE = Kind(499, "client-gone")  # as nginx counts it; nobody reads the answer
FAILED = Kind(500, "failed")
DRAINING = Kind(503, "draining", retry_after=1)
TOO_LATE = Kind(504, "too-late")


class Refused(Exception):
    """A request that gets no answer. The text is for the client: it names no path and no library."""

    def __init__(self, kind: Kind, text: str, field: str | None = None) -> None:
        """field: the request's field with the fault."""
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.field = field
