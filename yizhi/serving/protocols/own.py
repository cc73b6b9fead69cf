"""What no other server has: masks, tags and answers, with the fields of the command line's JSON."""

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from yizhi.choices import Scoring
from yizhi.serving.endpoint import Body, Endpoint, Exchange
from yizhi.serving.model import FILL, READ, TAG
from yizhi.serving.protocols.tei import TEI, as_list

Positive = Annotated[int, Field(ge=1)]
Stride = Annotated[int, Field(ge=0)]


class FillMaskBody(Body):
    """As `yizhi fill-mask`."""

    inputs: str | list[str]
    top_k: Positive = 5
    targets: list[str] | None = None
    scoring: Scoring = "joint"
    truncate: bool = False
    stride: Stride | None = None
    model: str | None = None


class TagBody(Body):
    """As `yizhi tag`."""

    inputs: str | list[str]
    stride: Stride | None = None
    model: str | None = None


class AnswerBody(Body):
    """As `yizhi answer`."""

    question: str
    context: str
    top_k: Positive = 1
    max_answer_tokens: Positive = 30
    no_answer: bool = False
    no_answer_threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    stride: Stride | None = None
    model: str | None = None


class Prediction(TypedDict):
    """One token for one [MASK]."""

    token: str
    token_id: int | None
    score: float
    sentence: str


class Entity(TypedDict):
    """Characters `start` … `end` − 1 of the text."""

    label: str
    text: str
    start: int
    end: int
    score: float


class Answer(TypedDict):
    """Characters `start` … `end` − 1 of the context; no answer is "" at null."""

    text: str
    start: int | None
    end: int | None
    score: float


Masks = list[list[Prediction]]


async def fill_mask(exchange: Exchange, body: FillMaskBody) -> Any:
    """The predictions of each [MASK]; a list of them for a list of texts."""
    model = exchange.choose(FILL, body.model)
    long = "truncate" if body.truncate else "error" if body.stride is None else body.stride
    planner = exchange.plan(model, top_k=body.top_k, targets=body.targets, scoring=body.scoring, long=long)
    found = await exchange.answer(model, planner, as_list(body.inputs))
    masks = [[[vars(prediction) for prediction in mask] for mask in result] for result in found.results]
    return masks[0] if isinstance(body.inputs, str) else masks


async def tag(exchange: Exchange, body: TagBody) -> Any:
    """The entities; a list of them for a list of texts."""
    model = exchange.choose(TAG, body.model)
    planner = exchange.plan(model, long="windows" if body.stride is None else body.stride)
    found = await exchange.answer(model, planner, as_list(body.inputs))
    entities = [[vars(entity) for entity in result] for result in found.results]
    return entities[0] if isinstance(body.inputs, str) else entities


async def answer(exchange: Exchange, body: AnswerBody) -> Any:
    """The best answers."""
    model = exchange.choose(READ, body.model)
    threshold = 0.0 if body.no_answer and body.no_answer_threshold is None else body.no_answer_threshold
    planner = exchange.plan(
        model,
        top_k=body.top_k,
        max_answer_tokens=body.max_answer_tokens,
        no_answer=threshold,
        long="windows" if body.stride is None else body.stride,
    )
    found = await exchange.answer(model, planner, [(body.question, body.context)])
    return [vars(one) for one in found.results[0]]


ENDPOINTS = (
    Endpoint("/fill-mask", TEI, fill_mask, FillMaskBody, Masks | list[Masks], "What each [MASK] hides, best first"),
    Endpoint("/tag", TEI, tag, TagBody, list[Entity] | list[list[Entity]], "The entities of texts"),
    Endpoint("/answer", TEI, answer, AnswerBody, list[Answer], "Answers to a question, as spans of its context"),
)
