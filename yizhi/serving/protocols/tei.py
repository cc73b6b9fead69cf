"""text-embeddings-inference: https://github.com/huggingface/text-embeddings-inference, router/src/http."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from yizhi import __version__
from yizhi.serving import refusals
from yizhi.serving.answers import json_response
from yizhi.serving.endpoint import Body, Endpoint, Exchange, Protocol
from yizhi.serving.model import EMBED, PREDICT, RERANK, TEXT_WORKERS, Cut, ServedModel
from yizhi.serving.refusals import Refused
from yizhi.serving.reranking import rank

# TEI's status and `error_type`; what it does not know keeps its own.
_ERRORS = {
    refusals.MALFORMED: (400, "Validation"),
    refusals.EMPTY: (400, "Empty"),
    refusals.INVALID: (422, "Tokenizer"),
    refusals.TOO_LARGE: (413, "Validation"),
    refusals.TOO_LONG: (413, "Validation"),
    refusals.OVERLOADED: (429, "Overloaded"),
    refusals.FAILED: (424, "Backend"),
    refusals.DRAINING: (503, "Unhealthy"),
    refusals.TOO_LATE: (504, "Overloaded"),
}


def error_of(refused: Refused) -> tuple[int, dict[str, str]]:
    """The status and the JSON of a refusal."""
    status, kind = _ERRORS.get(refused.kind, (refused.kind.status, "Validation"))
    return status, {"error": refused.text, "error_type": kind}


def _refuse(refused: Refused) -> Response:
    status, error = error_of(refused)
    return json_response(error, status)


class Error(TypedDict):
    """The reason for a refusal."""

    error: str
    error_type: str


TEI = Protocol("tei", _refuse, Error)

Texts = str | list[str]
Pair = Annotated[list[str], Field(min_length=1, max_length=2)]


class TextsBody(Body):
    """The fields that the bodies share. model: our own field, which names one of several served models."""

    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"
    model: str | None = None

    @property
    def cut(self) -> Cut:
        """The side to cut at."""
        if not self.truncate:
            return None
        return "left" if self.truncation_direction.lower() == "left" else "right"


class EmbedBody(TextsBody):
    """`/embed`."""

    inputs: Texts
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: Annotated[int, Field(ge=1)] | None = None


class EmbedAllBody(TextsBody):
    """`/embed_all`."""

    inputs: Texts
    prompt_name: str | None = None


class PredictBody(TextsBody):
    """`/predict`: a text, a pair, or a batch of [text] and [text, text]."""

    inputs: str | Pair | list[Pair]
    raw_scores: bool = False


class RerankBody(TextsBody):
    """`/rerank` with `texts`."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class Label(TypedDict):
    """One label of a text."""

    score: float
    label: str


class Rank(TypedDict):
    """One text's place."""

    index: int
    text: NotRequired[str]
    score: float


async def embed(exchange: Exchange, body: EmbedBody) -> Any:
    """A list of vectors, also for a single text."""
    found = await exchange.embed(
        exchange.choose(EMBED, body.model),
        as_list(body.inputs),
        normalize=body.normalize,
        cut=body.cut,
        prompt=body.prompt_name,
        dimensions=body.dimensions,
    )
    return found.results


async def embed_all(exchange: Exchange, body: EmbedAllBody) -> Any:
    """Every token's vector, of each text."""
    model = exchange.choose(EMBED, body.model)
    texts = as_list(body.inputs)
    found = await exchange.embed(model, texts, normalize=False, cut=body.cut, by_token=True, prompt=body.prompt_name)
    return found.results


async def predict(exchange: Exchange, body: PredictBody) -> Any:
    """Labels with their scores, best first; a list of them for a batch."""
    model = exchange.choose(PREDICT, body.model)
    given: Any = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    single = bool(given) and isinstance(given[0], str)
    pairs = [tuple(text) if len(text) == 2 else text[0] for text in ([given] if single else given)]
    found = await exchange.predict(model, pairs, cut=body.cut, raw=body.raw_scores)
    labels = [[{"score": one.score, "label": one.label} for one in result] for result in found.results]
    return labels[0] if single else labels


async def rerank(exchange: Exchange, body: RerankBody) -> Any:
    """Index and score of each text, best first."""
    model = exchange.choose(RERANK, body.model)
    ranks = await rank(exchange, model, body.query, body.texts, cut=body.cut, raw=body.raw_scores)
    return [
        {"index": index, "score": score, **({"text": body.texts[index]} if body.return_text else {})}
        for index, score in ranks
    ]


def as_list(inputs: Texts) -> list[str]:
    """A single text as one of a list."""
    return [inputs] if isinstance(inputs, str) else inputs


async def info(exchange: Exchange, _: None) -> Any:
    """The served model, and the limits."""
    first, *_others = exchange.models.values()
    limits = exchange.limits
    return {
        "model_id": first.name,
        "model_sha": first.digest,
        "model_dtype": first.precision,
        "model_type": _model_type(first),
        "max_concurrent_requests": limits.requests,
        "max_input_length": first.tokenizer.max_length,
        "max_batch_tokens": first.batcher.tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.texts,
        "auto_truncate": False,
        "tokenization_workers": TEXT_WORKERS,
        "version": __version__,
        "models": [
            {
                **model.describe(),
                "default_for": [one for one in sorted(model.abilities) if exchange.default_for(one) is model],
            }
            for model in exchange.models.values()
        ],
    }


def _model_type(model: ServedModel) -> dict[str, Any]:
    labels = {str(index): label for index, label in enumerate(model.labels)}
    classes = {"id2label": labels, "label2id": {label: int(index) for index, label in labels.items()}}
    if PREDICT in model.abilities:
        return {"reranker" if len(labels) == 1 else "classifier": classes}
    return {"embedding": {"pooling": model.pooling.mode}}


async def health(exchange: Exchange, _: None) -> Response:
    """An empty answer: 200 while requests are accepted."""
    exchange.refuse_draining()
    return Response()


ENDPOINTS = (
    Endpoint("/embed", TEI, embed, EmbedBody, list[list[float]], "A vector of each text"),
    Endpoint("/embed_all", TEI, embed_all, EmbedAllBody, list[list[list[float]]], "A vector of each token"),
    Endpoint(
        "/predict", TEI, predict, PredictBody, list[Label] | list[list[Label]], "Labels of texts or pairs, best first"
    ),
    Endpoint("/info", TEI, info, gives=dict[str, Any], summary="What is served", computes=False),
    Endpoint("/health", TEI, health, summary="Whether requests are taken", computes=False, open=True),
)
