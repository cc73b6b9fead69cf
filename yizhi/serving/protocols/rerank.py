"""Reranking in the forms of Cohere (`/v1/rerank`, `/v2/rerank`), Jina (`/v1/rerank`), and TEI (`/rerank`)."""

from typing import Annotated, Any, NotRequired

from pydantic import Discriminator, Field, Tag
from starlette.responses import Response
from typing_extensions import TypedDict

from yizhi.serving import refusals
from yizhi.serving.answers import json_response
from yizhi.serving.endpoint import Body, Endpoint, Exchange, Protocol
from yizhi.serving.model import RERANK
from yizhi.serving.protocols import tei
from yizhi.serving.refusals import Refused
from yizhi.serving.reranking import rank


def _refuse(refused: Refused) -> Response:
    """Cohere reads `message`, Jina `detail`."""
    status = 400 if refused.kind in (refusals.INVALID, refusals.TOO_LONG) else refused.kind.status
    return json_response({"message": refused.text, "detail": refused.text}, status)


def _refuse_both(refused: Refused) -> Response:
    """TEI's clients read the same fields."""
    status, error = tei.error_of(refused)
    return json_response({**error, "message": refused.text, "detail": refused.text}, status)


class Error(TypedDict):
    """The reason for a refusal."""

    message: str
    detail: str


class EitherError(Error, tei.Error):
    """The reason for a refusal, for clients of both."""


RERANK_PROTOCOL = Protocol("rerank", _refuse, Error)
EITHER = Protocol("rerank-or-tei", _refuse_both, EitherError)


class Document(Body):
    """A document with other fields, which are ignored."""

    text: str


class DocumentsBody(Body):
    """Cohere's and Jina's body."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False


EitherBody = Annotated[
    Annotated[tei.RerankBody, Tag("texts")] | Annotated[DocumentsBody, Tag("documents")],
    Discriminator(lambda given: "documents" if isinstance(given, dict) and "documents" in given else "texts"),
]


class Result(TypedDict):
    """One document's place."""

    index: int
    relevance_score: float
    document: NotRequired[dict[str, str]]


class Results(TypedDict):
    """The answer to Cohere's and Jina's body."""

    id: str
    model: str
    results: list[Result]
    usage: dict[str, int]


async def rerank(exchange: Exchange, body: DocumentsBody) -> Any:
    """Index and relevance of the `top_n` most relevant documents, best first. Documents that are too long are cut."""
    model = exchange.choose(RERANK, body.model)
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    ranks = await rank(exchange, model, body.query, texts, cut="right")
    return {
        "id": exchange.id,
        "model": model.name,
        "results": [
            {
                "index": index,
                "relevance_score": score,
                **({"document": {"text": texts[index]}} if body.return_documents else {}),
            }
            for index, score in ranks[: body.top_n]
        ],
        "usage": {"prompt_tokens": exchange.tokens, "total_tokens": exchange.tokens},
    }


async def either(exchange: Exchange, body: DocumentsBody | tei.RerankBody) -> Any:
    """The answer in the form of the body: TEI's body has `texts`."""
    return await (rerank(exchange, body) if isinstance(body, DocumentsBody) else tei.rerank(exchange, body))


_SUMMARY = "How relevant documents are to a query, best first"
ENDPOINTS = (
    Endpoint("/rerank", EITHER, either, EitherBody, Results | list[tei.Rank], f"{_SUMMARY}; TEI's body or Cohere's"),
    Endpoint("/v1/rerank", RERANK_PROTOCOL, rerank, DocumentsBody, Results, _SUMMARY),
    Endpoint("/v2/rerank", RERANK_PROTOCOL, rerank, DocumentsBody, Results, _SUMMARY),
)
