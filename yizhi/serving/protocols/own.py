"""Fill-mask, tags and answers, which no other server offers, with the fields of the command line's JSON."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from yizhi.choices import Scoring
from yizhi.serving.endpoint import Body, Endpoint, Exchange
from yizhi.serving.model import FILL, READ, TAG, ServedModel
from yizhi.serving.protocols.tei import TEI, as_list
from yizhi.serving.refusals import TOO_LARGE, TOO_LONG, Refused

TopK = Annotated[int, Field(ge=1, le=1000)]
# A prediction has its sentence with it: as much as so many numbers.
_PREDICTION = 100


class FillMaskBody(Body):
    """As `yizhi fill-mask`. long: for a text that is too long for the model."""

    inputs: str | list[str]
    top_k: TopK = 5
    targets: list[str] | None = None
    scoring: Scoring = "joint"
    long: Literal["error", "truncate", "windows"] = "error"
    model: str | None = None


class TagBody(Body):
    """As `yizhi tag`."""

    inputs: str | list[str]
    model: str | None = None


class AnswerBody(Body):
    """As `yizhi answer`."""

    question: str
    context: str
    top_k: TopK = 1
    max_answer_tokens: Annotated[int, Field(ge=1, le=512)] = 30
    no_answer: bool = False
    no_answer_threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
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
    texts = as_list(body.inputs)
    if body.targets:
        _check_targets(exchange, model, texts, body.targets)
    planner = exchange.plan(model, top_k=body.top_k, targets=body.targets, scoring=body.scoring, long=body.long)
    found = await exchange.answer(model, planner, texts, values=body.top_k * _PREDICTION)
    masks = [[[vars(prediction) for prediction in mask] for mask in result] for result in found.results]
    return masks[0] if isinstance(body.inputs, str) else masks


def _check_targets(exchange: Exchange, model: ServedModel, texts: list[str], targets: list[str]) -> None:
    """Raise Refused if words may need more tokens than the limit: each letter of each word, a row for each mask."""
    mask, longest = model.tokenizer.vocab[model.tokenizer.mask_id], model.tokenizer.max_length
    rows = sum(text.count(mask) * min(len(text) + 2, longest) for text in texts)
    if rows * sum(map(len, targets)) > exchange.limits.tokens:
        raise Refused(TOO_LARGE, "expected fewer targets, or fewer masks", "targets")


async def tag(exchange: Exchange, body: TagBody) -> Any:
    """The entities; a list of them for a list of texts."""
    model = exchange.choose(TAG, body.model)
    planner = exchange.plan(model)
    found = await exchange.answer(model, planner, as_list(body.inputs))
    entities = [[vars(entity) for entity in result] for result in found.results]
    return entities[0] if isinstance(body.inputs, str) else entities


async def answer(exchange: Exchange, body: AnswerBody) -> Any:
    """The best answers."""
    model = exchange.choose(READ, body.model)
    question = len(model.tokenizer.tokenize([body.question])[0].ids)
    most = model.tokenizer.max_length // 2
    if question > most:
        # Of the other half, windows over a long context are not many times its size.
        raise Refused(TOO_LONG, f"question: expected at most {most} tokens with [CLS] and [SEP]; found {question}")
    threshold = 0.0 if body.no_answer and body.no_answer_threshold is None else body.no_answer_threshold
    planner = exchange.plan(
        model,
        top_k=body.top_k,
        max_answer_tokens=body.max_answer_tokens,
        no_answer=threshold,
    )
    given = [(body.question, body.context)]
    found = await exchange.answer(model, planner, given, values=body.max_answer_tokens)
    return [vars(one) for one in found.results[0]]


ENDPOINTS = (
    Endpoint(
        "/fill-mask",
        TEI,
        fill_mask,
        FillMaskBody,
        Masks | list[Masks],
        "The most likely tokens for each [MASK], best first",
    ),
    Endpoint("/tag", TEI, tag, TagBody, list[Entity] | list[list[Entity]], "The entities of texts"),
    Endpoint("/answer", TEI, answer, AnswerBody, list[Answer], "Answers to a question, as spans of its context"),
)
