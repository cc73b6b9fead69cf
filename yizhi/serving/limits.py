"""The limits of a server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """A request beyond a limit is refused before anything is computed.

    body_bytes, texts, tokens: of one request. Tokens include special ones, and no padding.
    requests: being read or answered at once. Further clients are told to try again later.
    values: of the tensors of one answer of the Open Inference Protocol.
    seconds: from a request's first byte to its answer, including the queue.
    """

    body_bytes: int = 8 << 20
    texts: int = 1024
    tokens: int = 131_072
    requests: int = 256
    values: int = 1 << 24
    seconds: float = 60.0
