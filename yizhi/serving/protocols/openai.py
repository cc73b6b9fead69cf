"""OpenAI's embeddings: https://platform.openai.com/docs/api-reference/embeddings and /models."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from yizhi.serving import refusals
from yizhi.serving.answers import json_response
from yizhi.serving.endpoint import Body, Endpoint, Exchange, Protocol
from yizhi.serving.model import EMBED, ServedModel
from yizhi.serving.refusals import INVALID, Refused

# Status, `type` and `code`.
_ERRORS = {
    refusals.UNAUTHORIZED: (401, "invalid_request_error", "invalid_api_key"),
    refusals.NO_MODEL: (404, "invalid_request_error", "model_not_found"),
    refusals.INVALID: (400, "invalid_request_error", None),
    refusals.EMPTY: (400, "invalid_request_error", None),
    refusals.TOO_LONG: (400, "invalid_request_error", "context_length_exceeded"),
    refusals.OVERLOADED: (429, "rate_limit_error", "rate_limit_exceeded"),
    refusals.FAILED: (500, "server_error", None),
    refusals.DRAINING: (503, "server_error", None),
    refusals.TOO_LATE: (504, "server_error", "timeout"),
}


def _refuse(refused: Refused) -> Response:
    status, kind, code = _ERRORS.get(refused.kind, (refused.kind.status, "invalid_request_error", None))
    error = {"message": refused.text, "type": kind, "param": refused.field, "code": code}
    return json_response({"error": error}, status)


class Fault(TypedDict):
    """The fault of a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(TypedDict):
    """The reason for a refusal."""

    error: Fault


OPENAI = Protocol("openai", _refuse, Error)


class EmbeddingsBody(Body):
    """`/v1/embeddings`."""

    input: str | Annotated[list[str | int | list[int]], Field(min_length=1)]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class Embedding(TypedDict):
    """One vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(TypedDict):
    """Tokens, including special ones."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """The answer of `/v1/embeddings`."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(TypedDict):
    """One model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(TypedDict):
    """The answer of `/v1/models`."""

    object: Literal["list"]
    data: list[Model]


async def embeddings(exchange: Exchange, body: EmbeddingsBody) -> Any:
    """Vectors of norm 1, as OpenAI's are."""
    model = exchange.choose(EMBED, body.model)
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not all(isinstance(text, str) for text in texts):
        told = "token ids are another model's: send texts (in langchain, check_embedding_ctx_length=False)"
        raise Refused(INVALID, told, "input")
    found = await exchange.embed(model, [str(text) for text in texts], normalize=True, dimensions=body.dimensions)
    as_text = body.encoding_format == "base64"
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if as_text else vector}
            for index, vector in enumerate(found.results)
        ],
        "model": model.name,
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }


def _base64(vector: Any) -> str:
    """Of little-endian float32."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


async def models(exchange: Exchange, _: None) -> Any:
    """Every model that is served."""
    return {"object": "list", "data": [_describe(model) for model in exchange.models.values()]}


async def model(exchange: Exchange, _: None) -> Any:
    """One of them."""
    return _describe(exchange.choose(name=exchange.path["model"]))


def _describe(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "yizhi"}


ENDPOINTS = (
    Endpoint("/v1/embeddings", OPENAI, embeddings, EmbeddingsBody, Embeddings, "Vectors of norm 1"),
    Endpoint("/v1/models", OPENAI, models, gives=Models, summary="The models", computes=False),
    Endpoint("/v1/models/{model}", OPENAI, model, gives=Model, summary="One model", computes=False),
)
