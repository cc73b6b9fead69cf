"""How much a server takes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is more than this is refused, before anything is computed.

    body_bytes, texts, tokens: of one request; tokens with special ones, without padding.
    requests: being read or answered at once; more are told to come again.
    values: of the tensors of one answer of the Open Inference Protocol.
    seconds: from a request's first byte to its answer, the queue included.
    """

    body_bytes: int = 8 << 20
    texts: int = 1024
    tokens: int = 131_072
    requests: int = 256
    values: int = 1 << 24
    seconds: float = 60.0
